// A steady stream of requests to count by, for loadtest/tour.sh. Each comes on a connection of its own or not, in turn.
import http from 'k6/http';
import { Counter } from 'k6/metrics';

const TARGET = __ENV.TARGET || '';
// Nothing but loopback is accepted, so that a slip cannot load somebody else's machine.
if (!/^http:\/\/127(\.\d{1,3}){3}:\d+$/.test(TARGET)) {
  throw new Error(`TARGET is '${TARGET}': load goes to this machine's own fleet only`);
}

const answered = new Counter('answered');
const lost = new Counter('lost');

export const options = {
  scenarios: {
    tour: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 100),
      duration: `${Number(__ENV.DURATION)}s`,
      preAllocatedVUs: 50,
      maxVUs: 200,
    },
  },
  // Nobody reads more than the counters.
  summaryTrendStats: ['max'],
};

export default function () {
  // As browsers do: once more when a connection that was kept ends under the request.
  const first = http.get(`${TARGET}/ips.json`, { timeout: '10s' });
  const answer = first.status === 0 ? http.get(`${TARGET}/ips.json`, { timeout: '10s' }) : first;
  if (answer.status === 200 && answer.body.endsWith('}\n')) {
    answered.add(1);
  } else {
    lost.add(1);
    console.error(`${answer.status} ${answer.error}`);
  }
}

export function handleSummary(data) {
  const count = (name) => (data.metrics[name] ? data.metrics[name].values.count : 0);
  return { stdout: `${count('answered')} ${count('lost')} ${Math.round(data.metrics.http_req_duration.values.max)}\n` };
}
