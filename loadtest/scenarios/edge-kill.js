// What does a client notice when one of the two Envoys is killed with SIGKILL?
import { readAtEdge } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { answered, complete } from '../lib/thresholds.js';

const marks = [answered(), complete()];

export const options = constant(marks, phases);
export const setup = begin;
export default (start) => readAtEdge(start, 2);

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
