// How old can the list be that a client gets while the fleet changes, and how long do nodes disagree?
//
// One client asks through Envoy, each time another node. An answer's age is the time since a newer list was first seen
// on any node: 0 for the newest.
import { check } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';
import { config } from '../lib/config.js';
import { get } from '../lib/request.js';
import { begin, phase, single } from '../lib/stages.js';
import { phases, summarize } from '../lib/summary.js';
import { correct, lossless } from '../lib/thresholds.js';

const age = new Trend('list_age', true);
const newest = new Rate('list_newest');
const conflicts = new Counter('list_conflicts');

const marks = [
  lossless(),
  correct(),
  {
    name: 'age of the oldest list', metric: 'list_age', limit: 'max<500', latency: true,
    why: 'etcd tells every node within milliseconds; half a second is what the fleet promises for a crash',
  },
  {
    name: 'newest lists', metric: 'list_newest', limit: 'rate>0.98', latency: true,
    why: 'about ten changes of which each may be seen late for a tenth of a second by some nodes',
  },
  {
    name: 'different lists of one revision', metric: 'list_conflicts', limit: 'count==0',
    why: 'a file is a pure function of the roster at a revision',
  },
];

export const options = single(marks, phases);
export const setup = begin;

let seen = { revision: 0, at: 0, digest: '' };

export default function (start) {
  const answer = get(`${config.target}/ips.json`, start, { phase: phase(start) }, true);
  const list = parsed(answer.body);
  const whole = check(list, { 'the list is whole': (found) => found !== null && found.count === found.ips.length });
  if (!whole) return;
  // Counters that never count do not exist, and a threshold on them would not be judged.
  conflicts.add(list.revision === seen.revision && list.digest !== seen.digest ? 1 : 0);
  if (list.revision > seen.revision) {
    seen = { revision: list.revision, at: Date.now(), digest: list.digest };
    console.log(`LIST ${seen.at} ${list.revision} ${list.count} ${list.ips.join(',')}`);
  }
  newest.add(list.revision === seen.revision);
  age.add(list.revision === seen.revision ? 0 : Date.now() - seen.at);
}

function parsed(body) {
  try {
    return JSON.parse(body);
  } catch {
    return null;
  }
}

export function handleSummary(data) {
  return summarize(data, marks, phases, (_, { metrics }) => {
    const { passes, fails } = metrics.list_newest.values;
    return [`${fails} of ${passes + fails} answers were not the newest; the oldest by ${metrics.list_age.values.max.toFixed(0)} ms`];
  });
}
