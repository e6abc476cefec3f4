// The shapes of load, all of them open: requests start when the clock says so and not when the last answer came, so a
// stall is felt by every request that falls into it.
import { config } from './config.js';
import { thresholds } from './thresholds.js';

const { warm, steady, event, seconds } = config;

/** The parts of a run, in order, with the second at which each ends. */
export const PHASES = [
  ['warm', warm],
  ['steady', warm + steady],
  ['event', warm + steady + event],
  ['after', seconds],
];

/** The part of the run that this moment lies in; `start` is what `begin` returned. */
export function phase(start) {
  const elapsed = (Date.now() - start) / 1000;
  const found = PHASES.find(([, end]) => elapsed < end);
  // A request that starts in the last moment.
  return found ? found[0] : 'after';
}

/** k6's setup: its log line is the run's zero, by which run.sh times the fault. */
export function begin() {
  const start = Date.now();
  console.log(`START ${start}`);
  return start;
}

/** `config.rate` requests a second from the first second to the last. */
export function constant(marks, groups) {
  return options(marks, groups, {
    executor: 'constant-arrival-rate',
    rate: config.rate,
    timeUnit: '1s',
    duration: `${seconds}s`,
    ...users(config.rate),
  });
}

/** Each rate for the same time, upwards at once and not by a slope: a slope has no rate to speak of. */
export function stairs(marks, groups, rates) {
  const each = seconds / rates.length;
  return options(marks, groups, {
    executor: 'ramping-arrival-rate',
    startRate: rates[0],
    timeUnit: '1s',
    stages: rates.flatMap((target) => [
      { target, duration: '0s' },
      { target, duration: `${each}s` },
    ]),
    ...users(Math.max(...rates)),
  });
}

/** One client that asks in turn: what it remembers, such as the newest list, is in one place. */
export function single(marks, groups) {
  return options(marks, groups, {
    executor: 'constant-arrival-rate',
    rate: config.rate,
    timeUnit: '1s',
    duration: `${seconds}s`,
    preAllocatedVUs: 1,
    maxVUs: 1,
  });
}

// Each user is one keep-alive connection. A quarter of a second's requests may be in flight before more are made, a
// whole second's before requests are dropped, which `complete` then counts.
function users(rate) {
  return { preAllocatedVUs: Math.max(10, Math.ceil(rate / 4)), maxVUs: Math.max(20, Math.ceil(rate)) };
}

function options(marks, groups, load) {
  return {
    scenarios: { load: { gracefulStop: '15s', ...load } },
    thresholds: thresholds(marks, groups),
    summaryTrendStats: ['min', 'med', 'p(90)', 'p(99)', 'max', 'count'],
    // Every further tag splits every metric.
    systemTags: ['status', 'error_code', 'scenario'],
    userAgent: 'muster-loadtest',
    setupTimeout: '10s',
  };
}
