// What does a client notice while the fleet goes from 3 to 6, 2, 10 and 1 nodes?
import { read } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { complete, lossless } from '../lib/thresholds.js';

// No mark on latency: the engine that starts and stops containers takes the same cores as the fleet.
const marks = [lossless(), complete()];

export const options = constant(marks, phases);
export const setup = begin;
export default read;

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
