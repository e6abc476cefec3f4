// What does a client notice of `docker stop` of one node, and of its start afterwards?
import { read } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { above, complete, lossless } from '../lib/thresholds.js';

const marks = [
  lossless(),
  complete(),
  above('event', 50, 'the node leaves only after Envoy has forgotten it: nothing but the noise of two busy cores is left'),
];

export const options = constant(marks, phases);
export const setup = begin;
export default read;

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
