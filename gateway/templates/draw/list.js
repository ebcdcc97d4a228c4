// The list, its root, and the shuffle that makes ranks of it.

const SHUFFLE_ROUNDS = 90;

/** Entries without an object for each: a million of them must fit into a tab. */
class Entries {
  constructor(count) {
    this.ids = new Uint8Array(16 * count);
    this.quantities = new Uint8Array(count);
    this.counts = new Uint8Array(count);
    this.choices = new Uint8Array(CHOICES_MAX * count);
  }

  set(at, entry) {
    const isEntry =
      Array.isArray(entry) &&
      entry.length === 3 &&
      isHex(entry[0], 16) &&
      isInt(entry[1], 1, BUYER_LIMIT_MAX) &&
      Array.isArray(entry[2]) &&
      isInt(entry[2].length, 1, CHOICES_MAX) &&
      entry[2].every((choice) => isInt(choice, 0, VARIANTS_MAX - 1)) &&
      new Set(entry[2]).size === entry[2].length;
    need(isEntry, `entry ${at} is no entry of a list`);
    for (let i = 0; i < 16; i++) this.ids[16 * at + i] = parseInt(entry[0].substr(2 * i, 2), 16);
    this.quantities[at] = entry[1];
    this.counts[at] = entry[2].length;
    this.choices.set(entry[2], CHOICES_MAX * at);
  }

  idAt(at) {
    return hexOf(this.ids.subarray(16 * at, 16 * at + 16));
  }

  compare(one, other) {
    for (let i = 0; i < 16; i++) {
      const difference = this.ids[16 * one + i] - this.ids[16 * other + i];
      if (difference) return difference;
    }
    return 0;
  }
}

async function rootOf(entries, count, tick) {
  if (count === 0) return sha256();
  const level = new Uint8Array(32 * count);
  const data = new Uint8Array(65);
  const view = new DataView(data.buffer);
  for (let i = 0; i < count; i++) {
    data[0] = 0;
    view.setUint32(1, i);
    data.set(entries.ids.subarray(16 * i, 16 * i + 16), 5);
    data[21] = entries.quantities[i];
    const choices = entries.counts[i];
    data[22] = choices;
    for (let c = 0; c < choices; c++) data[23 + c] = entries.choices[CHOICES_MAX * i + c];
    hashInto(data, 23 + choices, level, 32 * i);
    if (i % 16384 === 16383) await tick("list", i / count / 2);
  }
  data[0] = 1;
  for (let left = count; left > 1; left = (left + 1) >> 1) {
    for (let i = 0; 2 * i < left; i++) {
      // The last one of a level goes up as it is, if it is alone.
      if (2 * i + 1 === left) {
        level.copyWithin(32 * i, 64 * i, 64 * i + 32);
        continue;
      }
      data.set(level.subarray(64 * i, 64 * i + 64), 1);
      hashInto(data, 65, level, 32 * i);
      if (i % 16384 === 16383) await tick("list", 1 - left / count / 2);
    }
  }
  return level.slice(0, 32);
}

/** The index at each rank: swap-or-not, every pair by the bit of its greater position. */
async function shuffled(count, seed, tick) {
  const order = Uint32Array.from({ length: count }, (_, at) => at);
  const data = new Uint8Array(37),
    source = new Uint8Array(32);
  const view = new DataView(data.buffer),
    first = new DataView(source.buffer);
  data.set(seed);
  for (let round = 0; round < (count ? SHUFFLE_ROUNDS : 0); round++) {
    data[32] = round;
    hashInto(data, 33, source, 0);
    const pivot = Number(first.getBigUint64(0, true) % BigInt(count));
    for (const [from, to] of [
      [(pivot >> 1) + 1, pivot],
      [Math.floor((pivot + count) / 2) + 1, count - 1],
    ]) {
      const sum = to === pivot ? pivot : pivot + count;
      let block = -1;
      for (let position = from; position <= to; position++) {
        if (position >>> 8 !== block) {
          block = position >>> 8;
          view.setUint32(33, block, true);
          hashInto(data, 37, source, 0);
        }
        if ((source[(position & 255) >> 3] >> (position & 7)) & 1) {
          const flip = sum - position,
            moved = order[position];
          order[position] = order[flip];
          order[flip] = moved;
        }
      }
    }
    await tick("ranks", round / SHUFFLE_ROUNDS);
  }
  return order;
}
