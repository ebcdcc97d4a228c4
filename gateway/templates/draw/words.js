// What can be wrong with a bundle, in words for buyers, under the names that engine/src/domain/line/bundle.rs has for
// it.
//
// These files are one script, in this order: words, bytes, rules, list, chance, rounds, verify. It needs no page: a
// worker runs it, and so do tests.
"use strict";

// What somebody can do about it.
const AGAIN =
  "Get the bundle again: the file may be damaged, or somebody between the shop and you may have changed it. If a new " +
  "one says the same, keep both files and ask the shop: what it has published contradicts itself.";
const COMPARE =
  "Compare with what others have kept: pages that were open then, and the shop's webhook drop.sealed, have the first " +
  "root, count and round. Keep this file, and ask the shop.";
const ASK =
  "Get the bundle again, to be sure. If it says the same, somebody was treated otherwise than the rules say: keep " +
  "the file, and ask the shop why.";
const WAIT =
  "If the drop is still running, this bundle was made in the middle of a round: get it again in a minute. If its " +
  "line is closed, keep the file, and ask the shop why.";
const OTHER_FILE = "Choose the file that the shop offers as the bundle of the draw, or get it again.";

/** What is wrong, in words: by its name, what to say of it and what to do. */
const WORDS = {
  Malformed: [(x) => `This is no bundle of a line: ${x.why}.`, OTHER_FILE],
  Version: [
    (x) => `The bundle has version ${x.version}, and this page knows version 2.`,
    "Take the page that belongs to it, from the same shop.",
  ],
  RulesHash: [() => "The rules are not those that were published: their hash is another one.", AGAIN],
  Rules: [(x) => `No line may have these rules: ${x.why}.`, AGAIN],
  Count: [
    (x) => `The list has ${x.leaves} entries, and ${x.count} were sealed: somebody was added or left out.`,
    AGAIN,
  ],
  Order: [(x) => `The list is not in its order, or an entry stands in it twice (at ${x.index}).`, AGAIN],
  Wish: [(x) => `The entry ${x.entry} wants what the rules do not offer.`, ASK],
  Root: [
    () =>
      "The list is not the one that was sealed: an entry was added, removed or changed after its root was " +
      "published.",
    COMPARE,
  ],
  "Steps(AnotherRound)": [
    () => "The beacon's round is not the one that follows from the seal: the shop must not " + "choose among rounds.",
    COMPARE,
  ],
  "Steps(LatePostponement)": [
    () => "The draw was put off when the round was out already: the shop could have known " + "its result.",
    COMPARE,
  ],
  "Steps(LateRoot)": [
    () =>
      "The root of the list was recorded too late before the draw: the list could have been " +
      "changed when the result was about to be known.",
    COMPARE,
  ],
  "Steps(OutOfOrder)": [
    () => "What was recorded between the seal and the draw is not in the order of its times.",
    COMPARE,
  ],
  "Steps(NotRooted)": [
    () => "There is no root of the list before the draw, or something was recorded behind it.",
    COMPARE,
  ],
  BeaconKind: [() => "The draw was decided by something else than the rules say.", AGAIN],
  BeaconRound: [
    (x) => `The draw must be decided by round ${x.expected} of the beacon, and was by ${x.given}.`,
    COMPARE,
  ],
  "Beacon(Randomness)": [
    () => "The number that decided the draw is not the one that the beacon's signature makes.",
    AGAIN,
  ],
  Secret: [() => "The shop's secret is not the one that it was bound to before the seal.", AGAIN],
  Result: [() => "The result that was typed in does not have the form that the rules fix.", AGAIN],
  Seed: [() => "The seed does not follow from the rules, the list and the result that decided the draw.", AGAIN],
  Join: [(x) => `Number ${x.number} joined after the seal, but stands out of order or was in line already.`, ASK],
  RoundNumber: [(x) => `Round ${x.round + 1} does not follow the one before: one is missing.`, ASK],
  RoundEarly: [(x) => `Round ${x.round + 1} was held before its time.`, ASK],
  PaceLowered: [(x) => `Round ${x.round + 1} decides fewer ranks than were promised.`, ASK],
  Stock: [(x) => `In round ${x.round + 1} there are other units than were left, came back and were added.`, ASK],
  Returned: [(x) => `In round ${x.round + 1} more units came back than buyers had.`, ASK],
  LineCount: [(x) => `In round ${x.round + 1} the line got shorter, or has more entries than are listed.`, ASK],
  Reason: [
    (x) =>
      `Rank ${x.rank} was passed over for a reason that the rules do not have` +
      `${x.reason ? `: ${x.reason}` : ""}.`,
    ASK,
  ],
  NotAwarded: [(x) => `Rank ${x.rank} was passed over as if they had been given something. They had not.`, ASK],
  NotDecided: [
    (x) => `In round ${x.round + 1} something is said against rank ${x.rank}, whose turn it was not.`,
    ASK,
  ],
  RoundCut: [
    (x) => `Round ${x.round + 1} ended before everybody was decided whose turn it was, or went on after that.`,
    WAIT,
  ],
  AboveAccepted: [(x) => `Rank ${x.rank} was given something for more than they had accepted.`, ASK],
  WrongAward: [
    (x) =>
      `In round ${x.round + 1}, rank ${x.rank} was given something that the rules give to somebody ` +
      "else, or to nobody.",
    ASK,
  ],
  MissingAward: [(x) => `In round ${x.round + 1}, rank ${x.rank} was not given what the rules give them.`, ASK],
  Served: [(x) => `Round ${x.round + 1} says of other ranks that they have been decided.`, ASK],
  NotInList: [
    (x) => `The entry ${x.entry} is not in the list.`,
    "Whoever left before the seal, or has another entry with the same card, is rightly not in it. Anybody else was " +
      "left out, and their ticket proves it. Keep the ticket with this file, and show both to the shop.",
  ],
  "Ticket(NotATicket)": [
    () => "This is no ticket. One begins with v1. and has two more parts.",
    "Copy the whole ticket from your place in line, without blanks.",
  ],
  "Ticket(AnotherKey)": [
    () => "The ticket was signed with another key than the one in the rules of this draw.",
    "See that ticket and bundle are of the same drop. If they are, keep both, and ask the shop why it has changed " +
      "its key.",
  ],
  "Ticket(BadSignature)": [
    () => "The shop has not signed this ticket: its signature is wrong.",
    "Copy it again from your place in line: a single other letter makes it wrong.",
  ],
};

/** The first thing that is wrong. */
class Wrong extends Error {
  constructor(code, about = {}) {
    super(code);
    this.code = code;
    this.about = about;
  }

  said() {
    const [what, todo] = WORDS[this.code];
    return { code: this.code, about: this.about, what: what(this.about), todo };
  }
}
