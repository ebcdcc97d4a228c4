// The page around verify.js: takes a bundle, has it checked in a worker, and says in words what came of it.
//
// It must never write what a bundle says as anything but text.
"use strict";

(() => {
  const at = (id) => document.getElementById(id);
  const [form, status, progress, result] = ["form", "status", "progress", "result"].map(at);
  const isFile = location.protocol === "file:";
  const PARTS = { list: "Hashing the list", ranks: "Drawing the ranks again", rounds: "Giving out the units again" };
  /** A larger file is no bundle of any line, and would only take the tab down. */
  const BYTES_MAX = 512 * 1024 * 1024;

  /** An element with these children; texts become text. */
  function make(name, properties, ...children) {
    const element = document.createElement(name);
    Object.assign(element, properties);
    element.append(...children);
    return element;
  }
  const text = (...children) => make("p", {}, ...children);
  const code = (value) => make("code", {}, String(value));
  const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
  const list = (items) => make("ul", {}, ...items.map((item) => make("li", {}, ...[item].flat())));
  const box = (kind, ...children) => make("div", { className: `box ${kind}` }, ...children);

  // ---- The check, in a worker: the page can be used meanwhile.

  // All that a worker needs beside the script that verifies.
  const WORK = `onmessage = async ({ data: { blob, own } }) => {
    let last = 0;
    const tick = async (part, share) => {
      if (Date.now() - last < 100) return;
      last = Date.now();
      postMessage({ part, share });
    };
    try {
      postMessage(await Draw.verifyText(await blob.text(), own, tick));
    } catch (error) {
      postMessage({ broken: String(error) });
    }
  };`;

  function showProgress(part, share) {
    progress.value = share;
    if (status.textContent !== PARTS[part]) status.textContent = PARTS[part];
  }

  /** Where a browser has no worker for a page from the disk: here, and the page is let in between every now and then. */
  async function checkHere(blob, own) {
    let last = 0;
    const tick = async (part, share) => {
      if (Date.now() - last < 100) return;
      showProgress(part, share);
      await new Promise((resolve) => setTimeout(resolve));
      last = Date.now();
    };
    return Draw.verifyText(await blob.text(), own, tick);
  }

  function check(blob, own) {
    const address = URL.createObjectURL(new Blob([at("verify").textContent, WORK], { type: "text/javascript" }));
    let worker;
    try {
      worker = new Worker(address);
    } catch {
      return checkHere(blob, own);
    }
    return new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => {
        if (data.part) {
          showProgress(data.part, data.share);
          return;
        }
        worker.terminate();
        if (data.broken) reject(new Error(data.broken));
        else resolve(data);
      };
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message || "the browser gave up"));
      };
      worker.postMessage({ blob, own });
    }).finally(() => URL.revokeObjectURL(address));
  }

  /** The bundle of a drop of this shop. What it answers instead is said in its own words. */
  async function fetchBundle(drop) {
    const answer = await fetch(`/v1/drops/${encodeURIComponent(drop)}/line/bundle`, { credentials: "omit" });
    if (answer.ok) return answer.blob();
    const { title = "The shop did not give the bundle", detail = "" } = await answer.json().catch(() => ({}));
    throw new Refused(title, detail);
  }

  class Refused extends Error {
    constructor(title, detail) {
      super(title);
      this.detail = detail;
    }
  }

  // ---- What came of it.

  const EVIDENCE = {
    drand: (beacon) => `it follows from the rules, the list and round ${beacon.round} of the beacon`,
    manual: (beacon) => `it follows from the rules, the list, the result “${beacon.result}” and the shop’s secret`,
    none: () => "it follows from the rules, the list and the shop’s secret",
  };

  function checksOf(found) {
    const { beacon } = found;
    const checks = [
      "The rules have the hash that is a part of the draw, and are rules that a line may have.",
      ["The list of ", count(found.entries, "entry", "entries"), " has its root ", code(found.root), "."],
      beacon.kind === "drand"
        ? "The root was recorded in time before the beacon’s round, and the rules lead to that very round."
        : "The root was recorded after the seal, and in time.",
      ["The seed is right: ", EVIDENCE[beacon.kind](beacon), "."],
      "Every rank follows from the seed, by a public shuffle.",
      `${count(found.later, "buyer")} joined after the seal, behind the list and in order.`,
      `${count(found.rounds, "round")}: each was held in time, decided as many ranks as promised, and gave everybody ` +
        `what the rules give them. ${count(found.awards, "buyer")} got ${count(found.units, "unit")}.`,
    ];
    if (beacon.kind !== "drand") checks.push("The shop’s secret is the one that it was bound to before the seal.");
    if (found.tickets > found.unchecked) {
      checks.push(
        `${count(found.tickets - found.unchecked, "ticket")} that others laid open: signed, and in the list.`,
      );
    }
    return checks;
  }

  function notChecked(found) {
    const { beacon, own } = found;
    const not = [];
    if (beacon.kind === "drand") not.push("The beacon’s signature: browsers have no BLS.");
    if (beacon.form === null) {
      not.push(
        "That the typed result has the form that the rules fix: this browser does not read that form. " +
          "The program doorbuster draw verify does.",
      );
    }
    if (own?.isChecked === false || found.unchecked > 0) {
      not.push(
        "The signature of the ticket: this browser has no Ed25519, or not on this address. Use a current browser and " +
          "https, or doorbuster draw verify.",
      );
    }
    if (!own) not.push("Your own place: enter your ticket above.");
    return not;
  }

  function warningsOf({ beacon, undecided }) {
    const warnings = [];
    if (beacon.kind === "drand" && beacon.isQuicknet) {
      const address = `https://api.drand.sh/${beacon.chain}/public/${beacon.round}`;
      warnings.push(
        text(
          make("strong", {}, "One thing is left for you to check: the beacon’s signature."),
          " This page cannot, and a shop that made one up could have chosen the order. Open ",
          make("a", { href: address, rel: "noreferrer" }, `drand’s own answer of round ${beacon.round}`),
          " and compare its signature with ",
          code(beacon.signature),
          ". Or let ",
          code("doorbuster draw verify"),
          " check it.",
        ),
      );
    } else if (beacon.kind === "drand") {
      warnings.push(
        text(
          make("strong", {}, "This is not drand’s public network."),
          " The rules name another beacon, of the chain ",
          code(beacon.chain),
          ". Whoever runs it could know a round before it is out, and choose the order with it: ask the shop who that " +
            "is. That this beacon has signed can be checked by ",
          code("doorbuster draw verify"),
          ".",
        ),
      );
    }
    if (beacon.kind === "manual") {
      warnings.push(
        text(
          make("strong", {}, "People at the shop could have known this result, or abandoned one."),
          ` A secret of the shop is part of this draw. As soon as the result of ${beacon.date} (${beacon.source}) ` +
            "was known, whoever knew the secret could compute the ranks before everybody else, and could have called " +
            "the draw off if they did not like them. The secret itself was bound before the seal, and was not chosen " +
            "afterwards.",
        ),
      );
    }
    if (beacon.kind === "none") {
      warnings.push(
        text(
          make("strong", {}, "People at the shop could have known this result, or abandoned one."),
          " Only a secret of the shop has decided it. Whoever knew it could compute every rank before the seal, join " +
            "last with the choices that pay, or call the draw off. The secret was bound before the line opened, and " +
            "was not chosen afterwards.",
        ),
      );
    }
    if (undecided > 0)
      warnings.push(
        text(
          `${count(undecided, "rank")} ${undecided === 1 ? "is" : "are"} not decided yet: the ` +
            "drop is still running. What came later is not in this bundle; get it again at the end.",
        ),
      );
    return warnings.map((warning) => box("warn", warning));
  }

  function mineOf(own) {
    if (!own) return [];
    const heading = make("h3", {}, "Your place");
    if (own.wrong) return [heading, box("bad", text(make("strong", {}, own.wrong.what)), text(own.wrong.todo))];
    const got = own.award
      ? `You were given ${own.award.quantity} × ${own.award.sku} in round ${own.award.round + 1}.`
      : "You were given nothing in these rounds.";
    const signed = own.isChecked ? " The shop has signed your ticket." : "";
    return [
      heading,
      box(
        "good",
        text(make("strong", {}, got)),
        text(
          `Your entry `,
          code(own.entry),
          ` is in the list, with rank ${own.rank.toLocaleString("en")} (counted from 0). ` +
            `The page has computed both.${signed}`,
        ),
      ),
    ];
  }

  function show({ found, wrong, refused }) {
    const isOwnWrong = Boolean(found?.own?.wrong);
    const verdict = at("verdict");
    verdict.className = found && !isOwnWrong ? "good" : "bad";
    const titles = [
      [refused, () => refused.message],
      [wrong, () => "Something is wrong with this draw"],
      [isOwnWrong, () => `The draw of ${found.drop} follows, but something is wrong with your ticket`],
      [found, () => `The draw of ${found.drop} follows from what was published`],
    ];
    verdict.textContent = titles.find(([is]) => is)[1]();
    at("wrong").replaceChildren(
      ...(wrong
        ? [
            box(
              "bad",
              text(make("strong", {}, wrong.what)),
              text(wrong.todo),
              make("p", { className: "help" }, "Its name: ", code(wrong.code)),
            ),
          ]
        : []),
      ...(refused ? [text(refused.detail)] : []),
    );
    at("mine").replaceChildren(...mineOf(found?.own));
    at("warnings").replaceChildren(...(found ? warningsOf(found) : []));
    at("checks").replaceChildren(
      ...(found
        ? [
            make("h3", {}, "What was checked"),
            list(checksOf(found)),
            make("h3", {}, "What was not checked"),
            list(notChecked(found)),
          ]
        : []),
    );
    result.dataset.code = wrong?.code ?? found?.own?.wrong?.code ?? (refused ? "refused" : "right");
    result.hidden = false;
    verdict.focus();
  }

  async function run() {
    const file = at("file").files[0],
      drop = at("drop").value.trim(),
      own = at("own").value.replace(/\s/g, "");
    if (!file && !drop) {
      show({
        refused: new Refused("There is nothing to check yet", "Choose the bundle’s file, or enter the drop’s name."),
      });
      return;
    }
    result.hidden = true;
    progress.hidden = false;
    progress.removeAttribute("value");
    at("check").disabled = true;
    status.textContent = file ? "Reading the file" : "Getting the bundle";
    try {
      const blob = file ?? (await fetchBundle(drop));
      if (blob.size > BYTES_MAX) throw new Refused("This file is too large for a bundle", "Choose another one.");
      show(await check(blob, own || null));
    } catch (error) {
      const why =
        "Try it again. A very long list may need more memory than this browser gives a page: a computer has more " +
        "than a phone, and the program doorbuster draw verify needs little.";
      show({
        refused:
          error instanceof Refused ? error : new Refused("The check came to no end", `${why} (${error.message})`),
      });
    } finally {
      status.textContent = "";
      progress.hidden = true;
      at("check").disabled = false;
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!at("check").disabled) run();
  });

  // From the disk there is no shop to ask.
  at("by-name").hidden = isFile;
  if (isFile) at("or").textContent = "The";
  // A ticket behind # is never sent to the server.
  if (/^#v1\./.test(location.hash)) at("own").value = location.hash.slice(1);
  const asked = new URLSearchParams(location.search).get("drop");
  if (asked && !isFile) {
    at("drop").value = asked;
    run();
  }
})();
