// A drop's first minute, as k6 plays it: buyers arrive, each clicks, some click twice, and when all is sold everybody is told so.
// README.md beside this file says how to run it and what it is given.

import http from 'k6/http';
import exec from 'k6/execution';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';
import { SharedArray } from 'k6/data';

const tokens = new SharedArray('tokens', () => JSON.parse(open(__ENV.TOKENS)));
const rate = Number(__ENV.RATE || 1000);
const quiet = Math.ceil(rate / 20);
const stages = {
  ramp: [
    { target: rate, duration: '5s' },
    { target: rate, duration: '15s' },
    { target: quiet, duration: '5s' },
  ],
  // Everybody in the second in which it opens.
  spike: [
    { target: quiet, duration: '5s' },
    { target: rate, duration: '1s' },
    { target: rate, duration: '5s' },
    { target: quiet, duration: '1s' },
    { target: quiet, duration: '8s' },
  ],
  constant: [{ target: rate, duration: '0s' }, { target: rate, duration: '20s' }],
};
const scenario = __ENV.SCENARIO || 'ramp';
if (!(scenario in stages)) {
  throw new Error(`SCENARIO is ${scenario}; it can be ${Object.keys(stages).join(', ')}`);
}
const url = `${__ENV.BASE_URL}/v1/drops/${__ENV.DROP}/claims`;

const taken = new Counter('claims_taken');
const soldOut = new Counter('claims_sold_out');
const passing = new Counter('claims_to_repeat');
const takenTime = new Trend('claims_taken_time', true);

// 409 is an answer: sold out, or the limit. 503 says to come back.
http.setResponseCallback(http.expectedStatuses(201, 202, 409, 503));

export const options = {
  discardResponseBodies: false,
  scenarios: {
    drop: {
      executor: 'ramping-arrival-rate',
      startRate: quiet,
      timeUnit: '1s',
      preAllocatedVUs: 500,
      maxVUs: 1000,
      stages: stages[scenario],
    },
  },
  thresholds: {
    http_req_failed: ['rate==0'],
    checks: ['rate==1'],
    // An arrival that k6 could not start is no measurement: give it more VUs, or a lower rate.
    dropped_iterations: ['count==0'],
    claims_taken: [`count<=${__ENV.UNITS}`],
    claims_taken_time: ['p(99)<1000'],
  },
};

export default function () {
  const click = exec.scenario.iterationInTest;
  const params = {
    headers: {
      Authorization: `Bearer ${tokens[click % tokens.length]}`,
      'Content-Type': 'application/json',
      'Idempotency-Key': 'k6',
    },
    tags: { name: 'claim' },
  };
  const body = JSON.stringify({ sku: __ENV.SKU, quantity: 1 });
  const answer = http.post(url, body, params);
  count(answer);
  if (click % 10 === 0 && answer.status === 201) {
    const again = http.post(url, body, params);
    check(again, { 'a second click is answered as the first': (again) => again.body === answer.body });
  }
}

function count(answer) {
  const code = answer.status === 201 ? 'taken' : answer.json('code');
  check(answer, {
    'an answer we know': () => ['taken', 'sold_out', 'not_enough', 'limit_exceeded', 'units_moving', 'overloaded'].includes(code),
  });
  if (code === 'taken') {
    taken.add(1);
    takenTime.add(answer.timings.duration);
  } else if (code === 'sold_out') {
    soldOut.add(1);
  } else if (answer.status === 503) {
    passing.add(1);
  }
}
