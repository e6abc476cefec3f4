// One request, measured as its client feels it.
import http from 'k6/http';
import { Rate, Trend } from 'k6/metrics';
import { config } from './config.js';
import { phase } from './stages.js';

http.setResponseCallback(http.expectedStatuses(200));

// k6's own http_req_duration leaves out the wait for a connection, and a client does wait for that.
const latency = new Trend('latency', true);
// What a client had to give up, after whatever it may repeat.
const lost = new Rate('lost');

// Every so many requests come on a connection of their own.
const EACH = 10;

// Each user tells of its first troubles only: a fleet that fails altogether must not fill the disk.
const TOLD = 5;
let told = 0;

/** GET, with the tags that make its numbers part of a group. */
export function get(url, start, tags, keep, headers) {
  const sent = Date.now();
  const answer = http.get(url, { tags, headers, timeout: '10s', responseType: keep ? 'text' : 'none' });
  const took = answer.timings.blocked + answer.timings.duration;
  latency.add(took, tags);
  if ((answer.status !== 200 || took > config.slow) && told < TOLD) {
    told += 1;
    const at = ((sent - start) / 1000).toFixed(3);
    const by = answer.headers['X-Served-By'] || 'nobody';
    console.log(`${answer.status === 200 ? 'SLOW' : 'FAILED'} at ${at} s: ${answer.status} after ${took.toFixed(1)} ms from ${by} ${answer.error}`);
  }
  return answer;
}

/** The list through Envoy: what most scenarios ask for, all the time. */
export function read(start) {
  get(`${config.target}/ips.json`, start, { phase: phase(start) });
}

/**
 * The list through one of two Envoys: one request in ten on a connection of its own, the others on kept ones.
 * `tries`: how often a client asks that finds its connection gone under it.
 */
export function readAtEdge(start, tries) {
  const headers = Math.random() * EACH < 1 ? { Connection: 'close' } : {};
  let answer;
  for (let tried = 0; tried < tries && !(answer && answer.status === 200); tried += 1) {
    answer = get(`${config.target}/ips.json`, start, { phase: phase(start) }, false, headers);
  }
  lost.add(answer.status !== 200);
}
