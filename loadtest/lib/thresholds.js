// What a run is judged by. A mark is either a k6 threshold (`metric`, `limit`) or a number computed at the end from the
// groups (`value`, `below`), and says why the number is what it is; the summary prints the reason beside the result.
import { config } from './config.js';

/** No request may fail, whatever happens to the fleet. */
export function lossless(group) {
  return {
    name: 'failed requests',
    metric: of('http_req_failed', group),
    limit: 'rate==0',
    why: 'as long as one node lives, Envoy finds it: a single failure is a bug',
  };
}

/** As `lossless`, for a client that asks again once when the connection it kept ends under its request. */
export function answered() {
  return {
    name: 'lost requests',
    metric: 'lost',
    limit: 'rate==0',
    why: 'every connection of an Envoy that is killed ends; who asks again once meets the other one',
  };
}

/** The load was really sent. */
export function complete() {
  const offered = config.rate * config.seconds;
  const share = config.latency ? 100 : 4;
  return {
    name: 'requests not sent',
    metric: 'dropped_iterations',
    limit: `count<${Math.max(1, Math.ceil(offered / share))}`,
    why: config.latency
      ? 'beyond 1 % of what was offered even p99 would hide what clients meet'
      : 'a busy machine sends late, but under less than three quarters of the load nothing is proven',
  };
}

/** Something a check of the scenario found. */
export function correct() {
  return { name: 'wrong answers', metric: 'checks', limit: 'rate==1', why: 'an answer must be whole and say what it should' };
}

/** The worst of `group` against the worst of the steady part of the same run: what the event itself costs. */
export function above(group, below, why) {
  return {
    name: `worst in ${group} above steady's worst`,
    unit: 'ms',
    latency: true,
    value: (groups) => groups[group].max - groups.steady.max,
    // Under so much noise the difference is a matter of luck, both ways.
    doubt: (groups) => groups.steady.max > below && `steady's own worst is ${groups.steady.max.toFixed(0)} ms: proves little, repeat on a quieter machine`,
    below,
    why,
  };
}

/** The worst over some groups. */
export function worst(names, below, why) {
  return {
    name: `worst in ${names.join(', ')}`,
    unit: 'ms',
    latency: true,
    value: (groups) => Math.max(...names.map((name) => groups[name].max)),
    below,
    why,
  };
}

/** A percentile of one group. */
export function percentile(stat, group, below, why) {
  return { name: `${stat} in ${group}`, unit: 'ms', latency: true, value: (groups) => groups[group][stat], below, why };
}

/** Those that count in this run. */
export function counted(marks) {
  const own = [];
  if (config.threshold) {
    const at = config.threshold.lastIndexOf(':');
    own.push({
      name: 'the caller\'s own',
      metric: config.threshold.slice(0, at),
      limit: config.threshold.slice(at + 1),
      why: 'given by --threshold',
    });
  }
  return marks.filter((mark) => config.latency || !mark.latency).concat(own);
}

/** k6's thresholds for these marks, and those without effect that make k6 keep the numbers of each group. */
export function thresholds(marks, groups) {
  const all = {};
  const add = (metric, limit) => {
    all[metric] = (all[metric] || []).concat(limit);
  };
  for (const group of groups) {
    add(of('latency', group), 'max>=0');
    add(of('http_reqs', group), 'count>=0');
    add(of('http_req_failed', group), 'rate>=0');
  }
  for (const mark of counted(marks)) if (mark.metric) add(mark.metric, mark.limit);
  return all;
}

/** The name of a metric's part: of('latency', 'phase:steady'). */
export function of(metric, group) {
  return group ? `${metric}{${group}}` : metric;
}
