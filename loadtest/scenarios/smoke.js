// Does every path answer through Envoy with what it should, at a rate that hurts nobody?
import { check } from 'k6';
import { config } from '../lib/config.js';
import { get } from '../lib/request.js';
import { begin, constant, phase } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { complete, correct, lossless, percentile } from '../lib/thresholds.js';

const ADDRESS = /^\d{1,3}(\.\d{1,3}){3}$/;

const PATHS = [
  ['/', (body) => body.includes('<table')],
  ['/ips.html', (body) => body.includes('<table')],
  ['/ips.json', (body) => JSON.parse(body).count === config.nodes && JSON.parse(body).ips.length === config.nodes],
  ['/ips.txt', (body) => body.trim().split('\n').every((line) => ADDRESS.test(line))],
  ['/sd.json', (body) => Array.isArray(JSON.parse(body))],
];

const marks = [
  lossless(),
  complete(),
  correct(),
  percentile('p90', 'steady', 100, 'a hundred times what an idle machine needs: more means that something is broken, not slow'),
];

export const options = constant(marks, phases);
export const setup = begin;

let turn = __VU;

export default function (start) {
  const [path, says] = PATHS[turn % PATHS.length];
  turn += 1;
  const answer = get(`${config.target}${path}`, start, { phase: phase(start) }, true);
  check(answer, { [`${path} says what it should`]: ({ body }) => says(body) });
}

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
