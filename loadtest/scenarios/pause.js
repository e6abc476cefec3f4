// What does a client notice of a node that is frozen for longer than its lease, and thawed again?
import { read } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { complete, lossless, worst } from '../lib/thresholds.js';

const marks = [
  lossless(),
  complete(),
  worst(['event', 'after'], 350, 'a frozen node is asked for 150 ms before another one is asked too; twice that, and noise'),
];

export const options = constant(marks, phases);
export const setup = begin;
export default read;

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
