// The one client of the comparison: an open load in parts, the same for every balancer. Started by run.sh.
//
// Requests start when the clock says so and not when the last answer came. 19 of 20 use the users' keep-alive
// connections, one of 20 makes a new connection.
import http from 'k6/http';
import { Trend } from 'k6/metrics';

const target = __ENV.TARGET || '';
// The balancer's own address on a private network of this machine, so that a slip cannot load somebody else's.
if (!/^http:\/\/(10|172\.(1[6-9]|2\d|3[01])|192\.168)(\.\d{1,3}){2,3}:\d+$/.test(target)) {
  throw new Error(`TARGET is '${target}': start this by loadtest/peers/run.sh`);
}
const rate = Number(__ENV.RATE);
// NAME:SECONDS in order, each name once.
const parts = __ENV.PARTS.split(',').map((part) => part.split(':'));
const ends = parts.map(([name], at) => [name, parts.slice(0, at + 1).reduce((sum, [, seconds]) => sum + Number(seconds), 0)]);
const duration = `${ends[ends.length - 1][1]}s`;
// The parts in which somebody waits for a node's first answer.
const watched = (__ENV.WATCHED || '').split(',');
const renewed = Math.max(1, Math.round(rate / 20));
const SLOW_MS = 100;
// Each user tells of its first troubles only: a balancer that fails altogether must not fill the disk.
const TOLD = 5;

http.setResponseCallback(http.expectedStatuses(200));
// k6's own duration leaves out the wait for a connection, and a client does wait for that.
const latency = new Trend('latency', true);

function load(exec, of, users, most) {
  return {
    executor: 'constant-arrival-rate', exec, rate: of, timeUnit: '1s', duration, preAllocatedVUs: users, maxVUs: most, gracefulStop: '10s',
  };
}

export const options = {
  // 64 connections kept alive, more only when that many requests wait at once; a second's load may wait before a request
  // is not sent, which is counted.
  scenarios: { kept: load('kept', rate - renewed, 64, Math.max(128, rate)), fresh: load('anew', renewed, 4, Math.max(16, renewed * 4)) },
  thresholds: Object.fromEntries(parts.flatMap(([name]) => [
    [`latency{part:${name}}`, ['max>=0']], [`http_reqs{part:${name}}`, ['count>=0']], [`http_req_failed{part:${name}}`, ['rate>=0']],
  ])),
  summaryTrendStats: ['med', 'p(90)', 'p(99)', 'max'],
  systemTags: ['status', 'error_code', 'scenario'],
  userAgent: 'muster-loadtest',
};

export function setup() {
  const start = Date.now();
  console.log(`START ${start}`);
  return start;
}

let told = 0;
let seen = { part: '', nodes: {} };

function ask(start, params) {
  const sent = Date.now();
  const elapsed = (sent - start) / 1000;
  const part = (ends.find(([, end]) => elapsed < end) || ends[ends.length - 1])[0];
  const tags = { part };
  const answer = http.get(`${target}/page.txt`, { tags, timeout: '5s', responseType: 'none', ...params });
  const took = answer.timings.blocked + answer.timings.duration;
  latency.add(took, tags);
  const by = answer.headers['X-Served-By'] || 'nobody';
  if ((answer.status !== 200 || took > SLOW_MS) && told < TOLD) {
    told += 1;
    console.log(`${answer.status === 200 ? 'SLOW' : 'FAILED'} ${part} at ${elapsed.toFixed(3)} s: ${answer.status} after ${took.toFixed(1)} ms from ${by} ${answer.error}`);
  }
  if (answer.status === 200 && watched.includes(part)) {
    if (seen.part !== part) seen = { part, nodes: {} };
    if (!seen.nodes[by]) {
      seen.nodes[by] = true;
      console.log(`FIRST ${part} ${by} ${sent + Math.round(took)}`);
    }
  }
}

export function kept(start) {
  ask(start, {});
}

export function anew(start) {
  ask(start, { headers: { Connection: 'close' } });
}

export function handleSummary(data) {
  const values = (name) => (data.metrics[name] ? data.metrics[name].values : {});
  const rounded = (value) => Math.round((value || 0) * 100) / 100;
  const result = Object.fromEntries(parts.map(([name]) => {
    const times = values(`latency{part:${name}}`);
    return [name, {
      sent: values(`http_reqs{part:${name}}`).count || 0,
      // k6 counts a failed request as a pass of "failed".
      failed: values(`http_req_failed{part:${name}}`).passes || 0,
      p50: rounded(times.med), p90: rounded(times['p(90)']), p99: rounded(times['p(99)']), max: rounded(times.max),
    }];
  }));
  const not_sent = values('dropped_iterations').count || 0;
  return { [`${__ENV.OUT}/load.json`]: `${JSON.stringify({ rate, not_sent, parts: result }, null, 2)}\n` };
}
