// All of it, for one bundle: decides everything again and names the first thing that does not follow.
//
// It must never ask anybody anything.

function base64url(text) {
  if (!/^[A-Za-z0-9_-]*$/.test(text) || text.length % 4 === 1) return null;
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) =>
    letter.charCodeAt(0),
  );
  const back = btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
  // Every value has one text.
  return back === text ? bytes : null;
}

/** Whether this key has signed: null where the browser cannot say. */
async function isSigned(key, signature, text) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) return null;
  try {
    const imported = await subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
    return await subtle.verify({ name: "Ed25519" }, imported, signature, encode(text));
  } catch {
    return null;
  }
}

/** The entry of a ticket, and whether its signature could be checked. */
async function readTicket(text, ticketKey) {
  const parts = typeof text === "string" ? text.split(".") : [];
  const [payload, signature] = parts.slice(1).map(base64url);
  if (parts.length !== 3 || parts[0] !== "v1" || payload?.length !== 36 || signature?.length !== 64) {
    throw new Wrong("Ticket(NotATicket)");
  }
  const key = bytesOf(ticketKey);
  if (!isSame([...payload.subarray(0, 4)], sha256(key))) throw new Wrong("Ticket(AnotherKey)");
  const signed = await isSigned(key, signature, `${parts[0]}.${parts[1]}`);
  if (signed === false) throw new Wrong("Ticket(BadSignature)");
  return { entry: hexOf(payload.subarray(12, 28)), isChecked: signed === true };
}

// ---- All of it.

const BUNDLE = [
  "version",
  "rules",
  "rules_hash",
  "count",
  "leaves",
  "root",
  "steps",
  "beacon",
  "seed",
  "joins",
  "chunks",
  "tickets",
];

/**
 * Checks a bundle. `own`: a ticket or an entry id, or null. `tick(part, share)` is awaited every now and then.
 * Answers what was found; throws [`Wrong`] with the first thing that is wrong with the bundle. What is wrong with
 * `own` stands in what was found: the draw may be right all the same.
 */
async function verify(bundle, own = null, tick = async () => {}) {
  need(bundle !== null && typeof bundle === "object" && isU32(bundle.version), "it has no version");
  if (bundle.version !== 2) throw new Wrong("Version", { version: bundle.version });
  fieldsOf({ tickets: [], ...bundle }, BUNDLE, "the document");
  need(
    typeof bundle.rules === "string" &&
      isU32(bundle.count) &&
      Array.isArray(bundle.leaves) &&
      Array.isArray(bundle.joins) &&
      Array.isArray(bundle.chunks) &&
      Array.isArray(bundle.tickets ?? []) &&
      ["rules_hash", "root", "seed"].every((name) => isHex(bundle[name], 32)),
    "a part of it is missing",
  );

  if (hexOf(sha256(encode(bundle.rules))) !== bundle.rules_hash) throw new Wrong("RulesHash");
  const rules = readRules(bundle.rules);
  const steps = readSteps(bundle.steps);
  const chunks = bundle.chunks.map(readChunk);

  // Those of the list, then those who came later.
  const [sealed, total] = [bundle.leaves.length, bundle.leaves.length + bundle.joins.length];
  const entries = new Entries(total);
  for (let i = 0; i < sealed; i++) {
    entries.set(i, bundle.leaves[i]);
    if (i % 65536 === 65535) await tick("list", 0);
  }
  const numbers = bundle.joins.map((join, at) => {
    fieldsOf(join, ["number", "entry"], "somebody who joined later");
    need(isU32(join.number), "somebody who joined later has no number");
    entries.set(sealed + at, join.entry);
    return join.number;
  });
  // The tab has them in another form now.
  bundle.leaves = bundle.joins = [];

  if (sealed !== bundle.count) throw new Wrong("Count", { count: bundle.count, leaves: sealed });
  for (let i = 1; i < sealed; i++) if (entries.compare(i - 1, i) >= 0) throw new Wrong("Order", { index: i });
  if (hexOf(await rootOf(entries, sealed, tick)) !== bundle.root) throw new Wrong("Root");
  const checkWish = (at) => {
    const wanted = entries.choices.subarray(CHOICES_MAX * at, CHOICES_MAX * at + entries.counts[at]);
    const fits =
      wanted.every((variant) => variant < rules.variants.length) && entries.quantities[at] <= rules.buyer_limit;
    if (!fits) throw new Wrong("Wish", { entry: entries.idAt(at) });
  };
  for (let i = 0; i < sealed; i++) checkWish(i);

  const chance = checkDraw(bundle, rules, steps);

  const find = (id) => {
    let [low, high] = [0, sealed];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (entries.idAt(middle) < id) low = middle + 1;
      else high = middle;
    }
    return low < sealed && entries.idAt(low) === id ? low : -1;
  };
  const later = new Map();
  for (let at = 0; at < numbers.length; at++) {
    checkWish(sealed + at);
    const id = entries.idAt(sealed + at);
    if (later.has(id) || find(id) >= 0 || (at > 0 && numbers[at - 1] >= numbers[at])) {
      throw new Wrong("Join", { number: numbers[at] });
    }
    later.set(id, sealed + at);
  }

  const order = await shuffled(sealed, chance.seed, tick);
  const rankOf = (id) => {
    const index = find(id);
    const rank = index >= 0 ? order.indexOf(index) : later.get(id);
    if (rank === undefined) throw new Wrong("NotInList", { entry: id });
    return rank;
  };
  let unchecked = 0;
  for (const ticket of bundle.tickets ?? []) {
    const { entry, isChecked } = await readTicket(ticket, rules.ticket_key);
    rankOf(entry);
    unchecked += isChecked ? 0 : 1;
  }
  let mine = null;
  if (own !== null) {
    try {
      const { entry, isChecked } = isHex(own, 16)
        ? { entry: own, isChecked: null }
        : await readTicket(own, rules.ticket_key);
      mine = { entry, isChecked, rank: rankOf(entry), wrong: null, award: null };
    } catch (error) {
      if (!(error instanceof Wrong)) throw error;
      mine = { wrong: error.said() };
    }
  }

  const wishes = {
    total,
    quantities: new Uint8Array(total),
    counts: new Uint8Array(total),
    choices: new Uint8Array(CHOICES_MAX * total),
  };
  for (let rank = 0; rank < total; rank++) {
    const at = rank < sealed ? order[rank] : rank;
    wishes.quantities[rank] = entries.quantities[at];
    wishes.counts[rank] = entries.counts[at];
    for (let c = 0; c < CHOICES_MAX; c++)
      wishes.choices[CHOICES_MAX * rank + c] = entries.choices[CHOICES_MAX * at + c];
  }
  const given = await replay(chunks, rules, wishes, sealed, chance.drawnAt, mine?.rank, tick);
  if (mine && !mine.wrong) mine.award = given.award;
  const { seed, drawnAt, ...beacon } = chance;
  return {
    drop: rules.drop,
    mode: rules.mode,
    entries: sealed,
    later: numbers.length,
    rounds: given.rounds,
    awards: given.awards,
    units: given.units,
    undecided: given.undecided,
    root: bundle.root,
    seed: bundle.seed,
    beacon,
    tickets: (bundle.tickets ?? []).length,
    unchecked,
    own: mine,
  };
}

/** The same for a text; answers `{ found }` or `{ wrong }`, and never throws. */
async function verifyText(text, own = null, tick = undefined) {
  try {
    let bundle;
    try {
      bundle = JSON.parse(text);
    } catch {
      malformed("it is no JSON, or was cut off");
    }
    text = null;
    return { found: await verify(bundle, own, tick) };
  } catch (error) {
    if (error instanceof Wrong) return { wrong: error.said() };
    throw error;
  }
}

// `var`: also whoever runs this text another way sees it.
var Draw = { verifyText };
