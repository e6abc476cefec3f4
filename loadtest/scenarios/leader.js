// What does a client notice when the node that leads is killed with SIGKILL?
import { read } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { above, complete, lossless } from '../lib/thresholds.js';

const marks = [
  lossless(),
  complete(),
  above('event', 100, 'the same as for any other node: leading has no part in answering requests'),
];

export const options = constant(marks, phases);
export const setup = begin;
export default read;

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
