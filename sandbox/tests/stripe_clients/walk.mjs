// The provider's own client for Node finds its way through the fake.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import Stripe from "stripe";

const { FAKE_URL, FAKE_KEY, FAKE_WEBHOOK_SECRET, FAKE_WEBHOOK_PORT } = process.env;
const fake = new URL(FAKE_URL);
const where = { protocol: "http", host: fake.hostname, port: Number(fake.port) };
const stripe = new Stripe(FAKE_KEY, { ...where, maxNetworkRetries: 0, telemetry: false });
const step = (text) => console.log(`node: ${text}`);

// Believes an event as far as the client's own function does.
const events = [];
const merchant = createServer((request, answer) => {
  let body = "";
  request.on("data", (chunk) => (body += chunk));
  request.on("end", () => {
    const signature = request.headers["stripe-signature"];
    events.push(stripe.webhooks.constructEvent(body, signature, FAKE_WEBHOOK_SECRET));
    for (const [wrong, secret] of [[`${body} `, FAKE_WEBHOOK_SECRET], [body, "whsec_of_somebody_else"]]) {
      const believe = () => stripe.webhooks.constructEvent(wrong, signature, secret);
      assert.throws(believe, { type: "StripeSignatureVerificationError" });
    }
    answer.end();
  });
});
await new Promise((ready) => merchant.listen(Number(FAKE_WEBHOOK_PORT), "127.0.0.1", ready));

async function told(kind) {
  const deadline = Date.now() + 10_000;
  while (Date.now() < deadline) {
    const event = events.find((event) => event.type === kind);
    if (event) return event;
    await new Promise((later) => setTimeout(later, 10));
  }
  assert.fail(`no ${kind} among ${events.map((event) => event.type)}`);
}

async function refused(type, code, call) {
  const error = await call().then(() => assert.fail(`not refused: ${type} ${code}`), (error) => error);
  assert.equal(error.type, type, error.message);
  assert.equal(error.code, code);
  assert.match(error.requestId, /^req_/);
  return error;
}

async function press(url, form = {}) {
  const answer = await fetch(url, { method: "POST", body: new URLSearchParams(form), redirect: "manual" });
  return [answer.status, answer.headers.get("location")];
}

const customer = await stripe.customers.create({ email: "ada@example.org", metadata: { buyer: "ada" } });
assert.equal((await stripe.customers.retrieve(customer.id)).email, "ada@example.org");
assert.equal((await told("customer.created")).data.object.id, customer.id);
step(`customer ${customer.id}, and the client's own function verified the event about it`);

const session = await stripe.checkout.sessions.create({
  mode: "setup", customer: customer.id, allowed_payment_method_types: ["card"],
  success_url: "https://shop.example/back?session={CHECKOUT_SESSION_ID}",
});
assert.match(await (await fetch(session.url)).text(), /pm_card_visa/);
const back = `https://shop.example/back?session=${session.id}`;
assert.deepEqual(await press(session.url, { card: "pm_card_visa" }), [303, back]);
assert.equal((await told("checkout.session.completed")).data.object.id, session.id);
const done = await stripe.checkout.sessions.retrieve(session.id, { expand: ["setup_intent"] });
const card = done.setup_intent.payment_method;
assert.equal(done.status, "complete");
assert.equal((await stripe.paymentMethods.retrieve(card)).customer, customer.id);
step(`session ${session.id}: ${card} saved on the hosted page, the event verified`);

const once = { amount: 500, currency: "eur", allowed_payment_method_types: ["card"], confirm: true };
const saved = { ...once, customer: customer.id, payment_method: card, off_session: true };
let paid;
for (const number of [1, 2]) {
  paid = await stripe.paymentIntents.create({ ...saved, metadata: { order_id: `o-${number}` } });
  assert.equal(paid.status, "succeeded");
}
step(`${card} paid twice, off session`);

const declined = await refused("StripeCardError", "card_declined", () =>
  stripe.paymentIntents.create({ ...once, payment_method: "pm_card_chargeDeclined" }));
assert.equal(declined.decline_code, "generic_decline");
assert.equal(declined.payment_intent.status, "requires_payment_method");
step("a decline is a StripeCardError with its codes and its intent");

const asking = await stripe.paymentMethods.attach("pm_card_authenticationRequired", { customer: customer.id });
const away = await refused("StripeCardError", "authentication_required", () =>
  stripe.paymentIntents.create({ ...saved, payment_method: asking.id }));
const waiting = await stripe.paymentIntents.confirm(away.payment_intent.id, {
  payment_method: asking.id, return_url: "https://shop.example/back",
});
assert.equal(waiting.status, "requires_action");
const [address, secret] = waiting.next_action.redirect_to_url.url.split("?");
assert.equal((await press(`${address}/complete?${secret}`))[0], 303);
assert.equal((await stripe.paymentIntents.retrieve(waiting.id)).status, "succeeded");
step("off session: authentication_required; with a return_url the link leads to the bank, and the money is taken");

const refund = await stripe.refunds.create({ payment_intent: paid.id, amount: 200 });
assert.equal(refund.status, "succeeded");
await refused("StripeInvalidRequestError", "amount_too_large", () =>
  stripe.refunds.create({ payment_intent: paid.id, amount: 500 }));
step(`${refund.id} gave back a part, and no more than the rest goes`);

const paged = [];
for await (const intent of stripe.paymentIntents.list({ limit: 2 })) paged.push(intent.id);
const whole = await stripe.paymentIntents.list({ limit: 100 });
assert.deepEqual(paged, whole.data.map((intent) => intent.id));
assert.equal(paged.length, 4);
const found = await stripe.paymentIntents.search({ query: "metadata['order_id']:'o-2'" });
assert.deepEqual(found.data.map((intent) => intent.id), [paid.id]);
step(`${paged.length} intents in pages of two are those of one page, and search found one by its metadata`);

const key = { idempotencyKey: "walk" };
const first = await stripe.customers.create({ name: "Eve" }, key);
const repeat = await stripe.customers.create({ name: "Eve" }, key);
assert.equal(repeat.id, first.id);
assert.equal(repeat.lastResponse.headers["idempotent-replayed"], "true");
assert.equal(repeat.lastResponse.apiVersion, "2026-10-28.endive");
await refused("StripeIdempotencyError", undefined, () => stripe.customers.create({ name: "Mallory" }, key));
step("a repeated key has the same answer, and other parameters under it are a StripeIdempotencyError");

const unknown = await refused("StripeInvalidRequestError", "parameter_unknown", () =>
  stripe.customers.create({ colour: "red" }));
assert.equal(unknown.param, "colour");
await stripe.paymentMethods.detach(card);
await refused("StripeInvalidRequestError", undefined, () => stripe.paymentIntents.create(saved));
assert.equal((await stripe.customers.del(customer.id)).deleted, true);
step("refusals name their parameter; a detached card pays for nothing");

merchant.close();
console.log(`node: walked to its end with stripe ${Stripe.PACKAGE_VERSION ?? ""}`);
