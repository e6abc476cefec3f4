// What does a client notice when one etcd member is killed, and when all three are?
import { read } from '../lib/request.js';
import { begin, constant } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { complete, lossless } from '../lib/thresholds.js';

// No mark on latency: no request asks etcd, so the worst is what the engine takes from the fleet to start members.
const marks = [lossless(), complete()];

export const options = constant(marks, phases);
export const setup = begin;
export default read;

export function handleSummary(data) {
  return summarize(data, marks, phases);
}
