// What does a client notice when one of the two Envoys stops as planned, and starts again?
import { readAtEdge } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { answered, complete, lossless } from '../lib/thresholds.js';

const marks = [lossless(), answered(), complete()];

export const options = constant(marks, phases);
export const setup = begin;
export default (start) => readAtEdge(start, 1);

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
