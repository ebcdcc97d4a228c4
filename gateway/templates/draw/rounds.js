// The rounds, decided again from what was read in each.

/** A line while its rounds are replayed. Who stands by is listed by variant and quantity, as the shop does it. */
class Allocation {
  constructor(wishes, count) {
    this.wishes = wishes;
    this.count = count;
    this.served = 0;
    this.end = 0;
    this.free = new Array(VARIANTS_MAX).fill(0);
    /** The last one of those who stand by who was decided in this round; null once those behind are next. */
    this.after = null;
    this.standsBy = new Uint8Array(wishes.total);
    this.lists = new Map();
    this.listed = 0;
    this.gone = 0;
  }

  letStandBy(rank) {
    const { quantities, counts, choices } = this.wishes;
    this.standsBy[rank] = 1;
    for (let c = 0; c < counts[rank]; c++) {
      const key = choices[CHOICES_MAX * rank + c] * (BUYER_LIMIT_MAX + 1) + quantities[rank];
      if (!this.lists.has(key)) this.lists.set(key, []);
      this.lists.get(key).push(rank);
      this.listed++;
    }
  }

  beginRound(free, perRound) {
    this.free = free.slice();
    this.end = Math.min(this.served + perRound, this.count);
    this.after = -1;
    if (this.gone * 4 > this.listed) {
      this.listed = this.gone = 0;
      for (const [key, ranks] of this.lists) {
        const stay = ranks.filter((rank) => this.standsBy[rank]);
        this.lists.set(key, stay);
        this.listed += stay.length;
      }
    }
    this.endIfOver();
  }

  endIfOver() {
    if (this.free.every((units) => units === 0)) {
      for (let rank = this.served; rank < this.count; rank++) this.letStandBy(rank);
      this.served = this.end = this.count;
      this.after = null;
    } else if (this.isRoundOver()) {
      this.after = null;
    }
  }

  isRoundOver() {
    return this.candidates(1).length === 0;
  }

  /** The next to be decided, at most so many, in their order. */
  candidates(most) {
    if (this.after !== null) {
      const first = this.candidatesStandingBy(this.after + 1, most);
      if (first.length > 0) return first;
    }
    return Array.from({ length: Math.max(0, Math.min(most, this.end - this.served)) }, (_, at) => this.served + at);
  }

  candidatesStandingBy(from, most) {
    const heads = [];
    const skip = (ranks, at) => {
      while (at < ranks.length && !this.standsBy[ranks[at]]) at++;
      return at;
    };
    for (const [key, ranks] of this.lists) {
      if (key % (BUYER_LIMIT_MAX + 1) > this.free[Math.floor(key / (BUYER_LIMIT_MAX + 1))]) continue;
      let [low, high] = [0, ranks.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (ranks[middle] < from) low = middle + 1;
        else high = middle;
      }
      const at = skip(ranks, low);
      if (at < ranks.length) heads.push({ ranks, at });
    }
    const found = [];
    while (heads.length > 0 && found.length < most) {
      const next = heads.reduce((least, { ranks, at }) => Math.min(least, ranks[at]), Infinity);
      found.push(next);
      // A rank stands in a list for each of its choices.
      for (let i = heads.length - 1; i >= 0; i--) {
        const head = heads[i];
        if (head.ranks[head.at] !== next) continue;
        head.at = skip(head.ranks, head.at + 1);
        if (head.at === head.ranks.length) heads.splice(i, 1);
      }
    }
    return found;
  }

  /** What the rules give these ranks: the number of a choice, or -1. `against`: by rank, what is said against it. */
  decide(ranks, against) {
    const { quantities, counts, choices } = this.wishes;
    const given = ranks.map((rank) => {
      const { bar = null, dearer = 0 } = against.get(rank) ?? {};
      const quantity = quantities[rank];
      let award = -1;
      for (let c = 0; bar === null && award < 0 && c < counts[rank]; c++) {
        if (this.free[choices[CHOICES_MAX * rank + c]] >= quantity && !((dearer >> c) & 1)) award = c;
      }
      if (award >= 0) this.free[choices[CHOICES_MAX * rank + award]] -= quantity;
      // A limit may be free again later; who left or was merged has gone for good.
      const hasGone = award >= 0 || (bar !== null && bar !== "over_limit");
      if (rank < this.served) {
        this.after = rank;
        if (hasGone) {
          this.standsBy[rank] = 0;
          this.gone += counts[rank];
        }
      } else {
        this.after = null;
        this.served = rank + 1;
        if (!hasGone) this.letStandBy(rank);
      }
      return award;
    });
    this.endIfOver();
    return given;
  }
}

const CHUNK = [
  "round",
  "at",
  "per_round",
  "count",
  "returned",
  "added",
  "free",
  "decided",
  "against",
  "awards",
  "served",
];

function readChunk(chunk) {
  fieldsOf(chunk, CHUNK, "a round");
  const at = timeOf(chunk.at);
  need(
    at !== null && ["round", "per_round", "count", "decided", "served"].every((name) => isU32(chunk[name])),
    "a round has no time or numbers",
  );
  need(
    Array.isArray(chunk.against) &&
      chunk.against.every(
        (one) =>
          Array.isArray(one) &&
          one.length === 3 &&
          isU32(one[0]) &&
          (one[1] === null || typeof one[1] === "string") &&
          isInt(one[2], 0, 255),
      ),
    "a round does not say what stood against whom",
  );
  need(
    Array.isArray(chunk.awards) &&
      chunk.awards.every((one) => Array.isArray(one) && one.length === 2 && isU32(one[0]) && isInt(one[1], 0, 255)),
    "a round does not say who was given what",
  );
  const units = (name) => unitsOf(chunk[name], `${name} units`);
  return { ...chunk, at, returned: units("returned"), added: units("added"), free: units("free") };
}

const hasUnits = (units) => units.some((count) => count > 0);
const hasRank = (ranks, rank) => {
  let [low, high] = [0, ranks.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranks[middle] < rank) low = middle + 1;
    else high = middle;
  }
  return ranks[low] === rank;
};

async function replay(chunks, rules, wishes, sealed, drawnAt, own, tick) {
  const line = new Allocation(wishes, sealed);
  const stock = rules.variants.map((variant) => variant.stock);
  let left = unitsOf(stock, "stock"),
    given = unitsOf([], "given");
  let pace = rules.per_round,
    before = null,
    rounds = 0,
    awards = 0,
    units = 0,
    award = null;
  const lastRound = chunks.at(-1)?.round;
  for (const [number, chunk] of chunks.entries()) {
    const { round } = chunk;
    const wrong = (code, about = {}) => {
      throw new Wrong(code, { round, ...about });
    };
    const isFirst = before === null || round > before;
    if (isFirst) {
      if (!line.isRoundOver()) wrong("RoundCut", { round: before ?? 0 });
      // Only rounds in which nothing was to be decided are left out: to leave out others is a slower pace.
      if (round > (before === null ? 0 : before + 1) && line.served < line.count) wrong("RoundNumber");
      const due = rules.opensAt + BigInt(rules.every_seconds) * BigInt(round) * SECOND;
      // The last one may give what came back until the end, and decide nobody else. It comes when the line ends, before its
      // time or not.
      const isEnd = chunk.per_round === 0 && lastRound === round;
      if (chunk.at < drawnAt || (chunk.at < due && !isEnd)) wrong("RoundEarly");
      if (chunk.per_round < pace && !isEnd) wrong("PaceLowered");
      pace = chunk.per_round;
      given = given.map((count, variant) => count - chunk.returned[variant]);
      if (given.some((count) => count < 0)) wrong("Returned");
      left = left.map((count, variant) => count + chunk.returned[variant] + chunk.added[variant]);
    } else if (round !== before) {
      wrong("RoundNumber");
    } else if (chunk.per_round !== pace) {
      wrong("PaceLowered");
    } else if (hasUnits(chunk.returned) || hasUnits(chunk.added)) {
      wrong("Stock");
    }
    if (!isSame(chunk.free, left)) wrong("Stock");
    if (chunk.count < line.count || chunk.count > wishes.total) wrong("LineCount");
    line.count = chunk.count;
    if (isFirst) {
      line.beginRound(left, pace);
      rounds++;
    }
    const ranks = line.candidates(chunk.decided);
    if (ranks.length !== chunk.decided) wrong("RoundCut");
    const against = new Map();
    for (const [rank, bar, dearer] of chunk.against) {
      if (bar !== null && !rules.may_pass_over.includes(bar)) wrong("Reason", { rank, reason: bar });
      // Whoever was given something is no candidate any more.
      if (bar === "awarded") wrong("NotAwarded", { rank });
      if (!hasRank(ranks, rank) || against.has(rank)) wrong("NotDecided", { rank });
      against.set(rank, { bar, dearer });
    }
    for (const [rank, choice] of chunk.awards) {
      if (choice < 8 && ((against.get(rank)?.dearer ?? 0) >> choice) & 1) wrong("AboveAccepted", { rank });
    }
    const expected = line.decide(ranks, against);
    let next = 0;
    for (const [at, rank] of ranks.entries()) {
      const isGiven = chunk.awards[next]?.[0] === rank;
      if (!isGiven && expected[at] >= 0) wrong("MissingAward", { rank });
      if (isGiven && chunk.awards[next][1] !== expected[at]) wrong("WrongAward", { rank });
      if (!isGiven) continue;
      next++;
      const variant = wishes.choices[CHOICES_MAX * rank + expected[at]];
      given[variant] += wishes.quantities[rank];
      awards++;
      units += wishes.quantities[rank];
      if (rank === own) award = { round, sku: rules.variants[variant].sku, quantity: wishes.quantities[rank] };
    }
    if (next < chunk.awards.length) wrong("WrongAward", { rank: chunk.awards[next][0] });
    left = line.free.slice();
    if (chunk.served !== line.served) wrong("Served");
    before = round;
    await tick("rounds", number / chunks.length);
  }
  if (!line.isRoundOver()) throw new Wrong("RoundCut", { round: before ?? 0 });
  return { rounds, awards, units, award, undecided: wishes.total - line.served };
}
