// What does a request cost when nothing happens, through Envoy and straight from a node?
//
// Blocks of five seconds, in turn: so both see the same machine, whatever else runs on it.
import { config } from '../lib/config.js';
import { get } from '../lib/request.js';
import { begin, constant, phase } from '../lib/stages.js';
import { summarize } from '../lib/summary.js';
import { complete, lossless, percentile } from '../lib/thresholds.js';

const BLOCK_MS = 5000;

const groups = config.direct ? ['via:envoy', 'via:nginx'] : ['via:envoy'];
const marks = [
  lossless(),
  complete(),
  percentile('p99', 'envoy', 50, 'what the marks of stop allow an event: a fleet that needs this without one cannot show them'),
];

export const options = constant(marks, groups);
export const setup = begin;

export default function (start) {
  const block = Math.floor((Date.now() - start) / BLOCK_MS);
  const straight = config.direct && block % 2 === 1;
  const via = phase(start) === 'warm' ? 'none' : straight ? 'nginx' : 'envoy';
  get(`${straight ? config.direct : config.target}/ips.json`, start, { via });
}

export function handleSummary(data) {
  return summarize(data, marks, groups);
}
