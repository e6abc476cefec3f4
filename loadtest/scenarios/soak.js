// Does anything wear out in a long time in which something happens every half minute?
import { read } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { complete, lossless } from '../lib/thresholds.js';

// Latency is reported and not judged: over half an hour the worst is the machine's. run.sh judges the memory.
const marks = [lossless(), complete()];

export const options = constant(marks, phases);
export const setup = begin;
export default read;

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
