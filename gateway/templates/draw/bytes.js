// Hashes, and values as they are published. Nothing of a bundle is trusted before it was read by one of these.

const VARIANTS_MAX = 32;
const BUYER_LIMIT_MAX = 100;
const CHOICES_MAX = 3;
const BARS = ["left", "merged", "awarded", "over_limit"];

// SHA-256 by hand: the browser's own answers later, one promise a hash, which is too slow for a million of them.

const K = new Int32Array([
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
  0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
  0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
  0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
  0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
  0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
  0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
  0xc67178f2,
]);
const BEGIN = new Int32Array([
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
]);
const state = new Int32Array(8);
const words = new Int32Array(64);
const tail = new Uint8Array(128);

function compress(bytes, at) {
  for (let i = 0; i < 16; i++, at += 4) {
    words[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
  }
  for (let i = 16; i < 64; i++) {
    const x = words[i - 15],
      y = words[i - 2];
    const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    words[i] = (words[i - 16] + s0 + words[i - 7] + s1) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + words[i]) | 0;
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + t1) | 0;
    d = c;
    c = b;
    b = a;
    a = (t1 + t2) | 0;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}

/** The hash of the first `length` bytes, written into `out` from `at` on. */
function hashInto(bytes, length, out, at) {
  state.set(BEGIN);
  let done = 0;
  for (; done + 64 <= length; done += 64) compress(bytes, done);
  const rest = length - done;
  tail.fill(0);
  for (let i = 0; i < rest; i++) tail[i] = bytes[done + i];
  tail[rest] = 0x80;
  const end = rest < 56 ? 64 : 128;
  new DataView(tail.buffer).setBigUint64(end - 8, BigInt(length) * 8n);
  compress(tail, 0);
  if (end === 128) compress(tail, 64);
  for (let i = 0; i < 8; i++, at += 4) {
    out[at] = state[i] >>> 24;
    out[at + 1] = state[i] >>> 16;
    out[at + 2] = state[i] >>> 8;
    out[at + 3] = state[i];
  }
}

function sha256(...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const all = new Uint8Array(length),
    out = new Uint8Array(32);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  hashInto(all, length, out, 0);
  return out;
}

// ---- Bytes, numbers and times as they are published.

const encode = (text) => new TextEncoder().encode(text);
const DIGITS = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
const hexOf = (bytes) => Array.from(bytes, (byte) => DIGITS[byte]).join("");
const isHex = (text, bytes) => typeof text === "string" && text.length === 2 * bytes && /^[0-9a-f]*$/.test(text);
const bytesOf = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const isInt = (value, least, most) => Number.isSafeInteger(value) && value >= least && value <= most;
const isU32 = (value) => isInt(value, 0, 0xffffffff);
const isSame = (one, other) => one.every((value, at) => value === other[at]);

function bigEndian(number, bytes) {
  const out = new Uint8Array(bytes);
  for (let i = bytes - 1, rest = BigInt(number); i >= 0; i--, rest >>= 8n) out[i] = Number(rest & 255n);
  return out;
}

const SECOND = 1000000000n;

/** Nanoseconds since 1970, or null: times are compared exactly. */
function timeOf(text) {
  const parts = typeof text === "string" && /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z$/.exec(text);
  if (!parts) return null;
  const whole = `${parts[1]}T${parts[2]}`;
  const milliseconds = Date.parse(`${whole}Z`);
  // The 30th of February becomes another day, and is none.
  if (Number.isNaN(milliseconds) || new Date(milliseconds).toISOString().slice(0, 19) !== whole) return null;
  return BigInt(milliseconds) * 1000000n + BigInt((parts[3] ?? "").padEnd(9, "0"));
}

function malformed(why) {
  throw new Wrong("Malformed", { why });
}
function need(is, why) {
  if (!is) malformed(why);
}

function fieldsOf(value, names, what) {
  need(value !== null && typeof value === "object" && !Array.isArray(value), `${what} is missing`);
  for (const name of names) need(Object.hasOwn(value, name), `${what} has no ${name}`);
  for (const name of Object.keys(value)) need(names.includes(name), `${what} has a field that nobody knows, ${name}`);
}

/** Units by variant, as long as a drop may have variants. */
function unitsOf(list, what) {
  need(Array.isArray(list) && list.length <= VARIANTS_MAX && list.every(isU32), `${what} are no units by variant`);
  return Array.from({ length: VARIANTS_MAX }, (_, at) => list[at] ?? 0);
}
