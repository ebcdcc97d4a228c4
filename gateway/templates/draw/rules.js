// The rules: read strictly, and held against what a line may have.

const RULES = [
  "version",
  "drop",
  "mode",
  "line_opens_at",
  "seal_at",
  "reveal_after_seconds",
  "opens_at",
  "closes_at",
  "every_seconds",
  "per_round",
  "pay_within_seconds",
  "capacity",
  "currency",
  "variants",
  "buyer_limit",
  "requires_card",
  "merges",
  "may_pass_over",
  "beacon",
  "ticket_key",
  "then_open",
];
const BEACONS = {
  drand: ["kind", "chain_hash", "public_key", "period_seconds", "genesis"],
  manual: ["kind", "source", "date", "pattern", "commitment"],
  none: ["kind", "commitment"],
};
const isPlain = (text) => typeof text === "string" && /^[ -~]*$/.test(text);
const isUsualTime = (text) => timeOf(text) !== null && !/\.\d*0Z$/.test(text);

function readRules(text) {
  const refuse = (why) => {
    throw new Wrong("Rules", { why });
  };
  const want = (is, why) => {
    if (!is) refuse(why);
  };
  let rules;
  try {
    rules = JSON.parse(text);
  } catch {
    refuse("they are no JSON");
  }
  const hasFields = (value, names) =>
    value !== null &&
    typeof value === "object" &&
    isSame(Object.keys(value), names) &&
    Object.keys(value).length === names.length;
  // So that a text means the same to every reader: no second field of a name, no number in another form.
  want(
    hasFields(rules, RULES) && JSON.stringify(rules) === text,
    "they are not written in the one form that rules have",
  );
  want(rules.version === 2, `their version is ${rules.version}, not 2`);
  const { variants, beacon } = rules;
  const times = ["line_opens_at", "seal_at", "opens_at", "closes_at"];
  const numbers = [
    "reveal_after_seconds",
    "every_seconds",
    "per_round",
    "pay_within_seconds",
    "capacity",
    "buyer_limit",
  ];
  want(
    typeof rules.drop === "string" &&
      /^[a-z0-9-]{1,32}$/.test(rules.drop) &&
      ["queue", "draw"].includes(rules.mode) &&
      times.every((name) => isUsualTime(rules[name])) &&
      numbers.every((name) => isU32(rules[name])) &&
      typeof rules.currency === "string" &&
      /^[A-Z]{3}$/.test(rules.currency) &&
      Array.isArray(variants) &&
      variants.every(
        (variant) =>
          hasFields(variant, ["number", "sku", "stock", "price_minor"]) &&
          isInt(variant.number, 0, 255) &&
          typeof variant.sku === "string" &&
          isU32(variant.stock) &&
          Number.isSafeInteger(variant.price_minor),
      ) &&
      typeof rules.requires_card === "boolean" &&
      typeof rules.then_open === "boolean" &&
      Array.isArray(rules.merges) &&
      rules.merges.every((by) => by === "card") &&
      Array.isArray(rules.may_pass_over) &&
      rules.may_pass_over.every((bar) => BARS.includes(bar)) &&
      isHex(rules.ticket_key, 32),
    "a field has a value that it cannot have",
  );
  want(
    beacon !== null &&
      Object.hasOwn(BEACONS, beacon.kind) &&
      hasFields(beacon, BEACONS[beacon.kind]) &&
      (beacon.kind !== "drand" ||
        (isHex(beacon.chain_hash, 32) &&
          isHex(beacon.public_key, 96) &&
          isU32(beacon.period_seconds) &&
          Number.isSafeInteger(beacon.genesis))) &&
      (beacon.kind === "drand" || isHex(beacon.commitment, 32)) &&
      (beacon.kind !== "manual" ||
        (typeof beacon.source === "string" &&
          typeof beacon.pattern === "string" &&
          typeof beacon.date === "string" &&
          timeOf(`${beacon.date}T00:00:00Z`) !== null)),
    "there is no such beacon",
  );
  const [lineOpensAt, sealAt, opensAt, closesAt] = times.map((name) => timeOf(rules[name]));
  want(lineOpensAt < sealAt && sealAt <= opensAt && opensAt < closesAt, "their times are in another order");
  want(isInt(rules.reveal_after_seconds, 1, 86400), "the beacon decides too early or too late");
  const revealAfter = BigInt(rules.reveal_after_seconds) * SECOND;
  want(opensAt - sealAt >= revealAfter + revealAfter / 4n, "the seal is too late for the beacon");
  want(isInt(rules.every_seconds, 1, 3600), "rounds come too often or too seldom");
  want(isInt(rules.per_round, 1, 1000000), "a round decides nobody, or too many");
  want(isInt(rules.capacity, 1, 5000000), "the line has no room, or too much");
  want(rules.pay_within_seconds <= 604800, "there is too much time to pay");
  want(isInt(rules.buyer_limit, 1, BUYER_LIMIT_MAX), "the limit per buyer is none");
  want(
    isInt(variants.length, 1, VARIANTS_MAX) && variants.every((variant, at) => variant.number === at),
    "the variants are not numbered from 0",
  );
  want(
    variants.every(({ sku }) => /^[!-~]{1,64}$/.test(sku)) &&
      new Set(variants.map(({ sku }) => sku)).size === variants.length,
    "a SKU is none, or stands there twice",
  );
  want(
    variants.every(({ stock, price_minor }) => stock > 0 && price_minor >= 0) &&
      variants.reduce((sum, { stock }) => sum + stock, 0) <= 10000000,
    "the stock or a price cannot be",
  );
  want(rules.merges.length === 0 || rules.requires_card, "entries are merged by cards that nobody needs");
  const order = rules.may_pass_over.map((bar) => BARS.indexOf(bar));
  want(
    order.every((bar, at) => at === 0 || order[at - 1] < bar),
    "what may pass over a rank is not in its order",
  );
  if (beacon.kind === "drand") want(isInt(beacon.period_seconds, 1, 60), "the beacon's rounds come too seldom");
  if (beacon.kind === "manual") {
    want(isInt([...beacon.source].length, 1, 200), "the result has no source");
    want(isPlain(beacon.pattern) && isInt(beacon.pattern.length, 1, 200), "the form of the result is none");
    want(timeOf(`${beacon.date}T00:00:00Z`) - sealAt >= revealAfter, "the result may be known before the seal");
  }
  return { ...rules, sealAt, opensAt, revealAfter };
}
