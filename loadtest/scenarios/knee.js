// Up to which rate does the fleet keep up on this machine, and what breaks first beyond it?
//
// The client shares the machine's cores with Envoy, the nodes and etcd: the knee is the machine's, not Envoy's.
import { config } from '../lib/config.js';
import { get } from '../lib/request.js';
import { begin, stairs } from '../lib/stages.js';
import { summarize } from '../lib/summary.js';
import { lossless, percentile } from '../lib/thresholds.js';

const RATES = [0.5, 1, 2, 3, 4, 6, 8].map((factor) => Math.max(1, Math.round(config.rate * factor)));
const EACH = config.seconds / RATES.length;
// New connections are made in the first second of a step.
const SETTLING = 1;
// What a person does not notice; above it requests queue.
const KEEPS_UP_MS = 100;

const groups = RATES.map((rate) => `rate:${rate}`);
const marks = [
  lossless(`rate:${config.rate}`),
  percentile('p99', String(config.rate), KEEPS_UP_MS, 'every other scenario is measured at this rate: it must lie below the knee'),
];

export const options = stairs(marks, groups, RATES);
export const setup = begin;

export default function (start) {
  const elapsed = (Date.now() - start) / 1000;
  const step = Math.min(RATES.length - 1, Math.floor(elapsed / EACH));
  const settling = elapsed - step * EACH < SETTLING;
  get(`${config.target}/ips.json`, start, { rate: settling ? 'none' : String(RATES[step]) });
}

export function handleSummary(data) {
  return summarize(data, marks, groups, (numbers) => {
    const kept = RATES.filter((rate) => {
      const { sent, failed, p99 } = numbers[rate];
      return failed === 0 && p99 < KEEPS_UP_MS && sent >= 0.99 * rate * (EACH - SETTLING);
    });
    const highest = kept.length > 0 ? Math.max(...kept) : 0;
    return [`keeps up with ${highest} requests a second: none failed, 99 % of them sent, p99 below ${KEEPS_UP_MS} ms`];
  });
}
