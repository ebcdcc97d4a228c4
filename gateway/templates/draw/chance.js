// What decided the draw: the root stood before it, and the seed follows from it. The beacon's signature (BLS) is not
// checked.

const POSTPONED_BY = 100n;
/** drand's public network. With another one it depends on who runs it. */
const QUICKNET = {
  chain_hash: "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971",
  public_key:
    "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d10" +
    "64510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a",
  period_seconds: 3,
  genesis: 1692803367,
};

function readSteps(list) {
  need(Array.isArray(list), "it does not say what was recorded before the draw");
  const names = {
    postponed: ["what", "round", "to", "at"],
    void: ["what", "round", "at", "late_root"],
    rooted: ["what", "round", "at"],
  };
  return list.map((step) => {
    need(step !== null && Object.hasOwn(names, step?.what), "something was recorded that nobody knows");
    fieldsOf(step, names[step.what], "what was recorded before the draw");
    const at = timeOf(step.at);
    need(
      at !== null &&
        isInt(step.round, 0, Number.MAX_SAFE_INTEGER) &&
        (step.what !== "postponed" || isInt(step.to, 0, Number.MAX_SAFE_INTEGER)),
      "a record before the draw has no time or round",
    );
    return { what: step.what, round: BigInt(step.round), to: BigInt(step.to ?? 0), at };
  });
}

/** With drand: the round that decides, and when it was due. */
function follow(rules, steps) {
  const { genesis, period_seconds } = rules.beacon;
  const [from, period] = [BigInt(genesis), BigInt(period_seconds)];
  const up = (number, by) => (number + by - 1n) / by;
  const roundAt = (time) => {
    const elapsed = (time >= 0n ? up(time, SECOND) : time / SECOND) - from;
    return elapsed > 0n ? up(elapsed, period) + 1n : 1n;
  };
  const dueAt = (round) => (from + (round - 1n) * period) * SECOND;
  const wrong = (why) => {
    throw new Wrong(`Steps(${why})`);
  };
  let planned = roundAt(rules.sealAt + rules.revealAfter);
  let last = rules.sealAt;
  for (const [number, { what, round, to, at }] of steps.entries()) {
    const expected = planned ?? roundAt(at + 5n * rules.revealAfter);
    if (at < last) wrong("OutOfOrder");
    last = at;
    const due = dueAt(expected);
    if (round !== expected || (planned === null && what !== "rooted")) wrong("AnotherRound");
    if (what === "postponed") {
      if (at >= due) wrong("LatePostponement");
      if (to !== round + POSTPONED_BY) wrong("AnotherRound");
      planned = to;
    } else if (what === "void") {
      // A round that is not out yet cannot be given up: the shop must not choose among rounds.
      if (at < due) wrong("OutOfOrder");
      planned = null;
    } else {
      if (due - at < rules.revealAfter / 4n) wrong("LateRoot");
      if (number + 1 !== steps.length) wrong("NotRooted");
      return { round, due };
    }
  }
  return wrong("NotRooted");
}

/** With `manual` and `none`: one root after the seal, and before the result's day begins. */
function followWithoutRounds(rules, resultFrom, steps) {
  const wrong = (why) => {
    throw new Wrong(`Steps(${why})`);
  };
  if (steps.length !== 1 || steps[0].what !== "rooted") wrong("NotRooted");
  if (steps[0].round !== 0n) wrong("AnotherRound");
  if (steps[0].at < rules.sealAt) wrong("OutOfOrder");
  if (resultFrom !== null && steps[0].at >= resultFrom) wrong("LateRoot");
  return steps[0].at;
}

function secretOf(text, commitment) {
  const is =
    typeof text === "string" &&
    text.length >= 32 &&
    isHex(text, text.length / 2) &&
    hexOf(sha256(encode("doorbuster/draw/2/secret"), bytesOf(text))) === commitment;
  if (!is) throw new Wrong("Secret");
  return bytesOf(text);
}

/** Whether the result has its form; null where this browser reads the form otherwise than the shop does. */
function hasForm(pattern, result) {
  if (!isPlain(result)) return false;
  if (/&&|--|~~|\[\[/.test(pattern)) return null;
  try {
    return new RegExp(`^(?:${pattern})$`, "u").test(result);
  } catch {
    return null;
  }
}

function checkDraw(bundle, rules, steps) {
  const { beacon } = rules,
    seen = bundle.beacon;
  need(
    seen !== null && typeof seen === "object" && Object.hasOwn(BEACONS, seen.kind),
    "it does not say what decided the draw",
  );
  fieldsOf(
    seen,
    {
      drand: ["kind", "round", "randomness", "signature"],
      manual: ["kind", "result", "secret"],
      none: ["kind", "secret"],
    }[seen.kind],
    "what decided the draw",
  );
  if (seen.kind !== beacon.kind) throw new Wrong("BeaconKind");
  const found = { kind: beacon.kind, form: true };
  let chance;
  if (beacon.kind === "drand") {
    need(
      isInt(seen.round, 0, Number.MAX_SAFE_INTEGER) && isHex(seen.randomness, 32) && isHex(seen.signature, 48),
      "the beacon's round is none",
    );
    const { round, due } = follow(rules, steps);
    if (BigInt(seen.round) !== round) throw new Wrong("BeaconRound", { expected: String(round), given: seen.round });
    if (hexOf(sha256(bytesOf(seen.signature))) !== seen.randomness) throw new Wrong("Beacon(Randomness)");
    chance = [bytesOf(beacon.chain_hash), bigEndian(round, 8), bytesOf(seen.randomness)];
    found.drawnAt = due;
    found.round = seen.round;
    found.signature = seen.signature;
    found.chain = beacon.chain_hash;
    found.isQuicknet = Object.entries(QUICKNET).every(([name, value]) => beacon[name] === value);
  } else if (beacon.kind === "manual") {
    const from = timeOf(`${beacon.date}T00:00:00Z`);
    followWithoutRounds(rules, from, steps);
    need(typeof seen.result === "string", "the result that was typed in is none");
    found.form = hasForm(beacon.pattern, seen.result);
    if (found.form === false) throw new Wrong("Result");
    chance = [encode("manual"), encode(seen.result), secretOf(seen.secret, beacon.commitment)];
    found.drawnAt = from;
    found.source = beacon.source;
    found.date = beacon.date;
    found.result = seen.result;
  } else {
    found.drawnAt = followWithoutRounds(rules, null, steps);
    chance = [encode("none"), secretOf(seen.secret, beacon.commitment)];
  }
  const parts = [
    encode("doorbuster/draw/2/seed"),
    encode(rules.drop),
    bytesOf(bundle.rules_hash),
    bigEndian(bundle.count, 4),
    bytesOf(bundle.root),
    ...chance,
  ];
  const seed = sha256(...parts.flatMap((part) => [bigEndian(part.length, 4), part]));
  if (hexOf(seed) !== bundle.seed) throw new Wrong("Seed");
  return { ...found, seed };
}
