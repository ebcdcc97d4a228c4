// Buys a pair with a client that openapi-typescript and openapi-fetch make of the buyers' /openapi.json.
import { deepStrictEqual, strictEqual } from "node:assert";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const { DOORBUSTER_URL: baseUrl, DOORBUSTER_TOKEN: token, DOORBUSTER_DROP: drop } = process.env;
if (!baseUrl || !token || !drop) throw new Error("DOORBUSTER_URL, DOORBUSTER_TOKEN and DOORBUSTER_DROP must be set");

const api = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });
const params = (key: string) => ({ path: { drop }, header: { "Idempotency-Key": key } });

async function until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + 30_000;
  while (Date.now() < deadline) {
    const found = await ask();
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`in vain waited for: ${what}`);
}

const profile: components["schemas"]["Profile"] = {
  payment_method: "pm_card_visa",
  email: "ada@example.com",
  ship_to: { name: "Ada Lovelace", line1: "Domkloster 4", city: "Köln", postal_code: "50667", country: "DE" },
};
const saved = await api.PUT("/v1/me/checkout-profile", { body: profile });
deepStrictEqual(saved.data, profile);

const claimed = await api.POST("/v1/drops/{drop}/claims", { params: params("typescript"), body: { quantity: 1 } });
strictEqual(claimed.response.status, 201, JSON.stringify(claimed.error));
// A 202 would have no serials: the two answers are told apart by what they have.
if (!claimed.data || !("serials" in claimed.data)) throw new Error("the claim was not taken");
strictEqual(claimed.data.serials.length, 1);
const id = claimed.data.claim_id;

await until("the claim is confirmed", async () => {
  const { data } = await api.GET("/v1/claims/{id}", { params: { path: { id } } });
  return data?.status === "confirmed" ? data : undefined;
});
const order = await api.GET("/v1/orders/{id}", { params: { path: { id } } });
strictEqual(order.data?.status, "CONFIRMED" satisfies components["schemas"]["OrderState"]);
strictEqual(order.data.items[0]?.quantity, 1);

// What went wrong is typed too: each status has its codes, and no others compile.
const again = await api.POST("/v1/drops/{drop}/claims", { params: params("typescript-2"), body: { quantity: 99 } });
strictEqual(again.response.status, 409);
strictEqual(again.error?.code, "limit_exceeded");
// @ts-expect-error: an order does not come back as a problem of this route
if (again.error?.code === "order_not_found") throw new Error("this is no answer to a claim");

console.log(`typescript: order ${id} is ${order.data.status}, ${order.data.total.amount_minor} ${order.data.total.currency}`);
