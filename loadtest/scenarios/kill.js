// What does a client notice when one node is killed with SIGKILL?
import { read } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { above, complete, lossless } from '../lib/thresholds.js';

const marks = [
  lossless(),
  complete(),
  above('event', 100, 'a connect to the dead gives up after 100 ms, and the first to fail ejects the node for all others'),
];

export const options = constant(marks, phases);
export const setup = begin;
export default read;

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
