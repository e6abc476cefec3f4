// The end of a run: numbers of each group, marks with their reasons, as text and as JSON; and the verdict for run.sh.
import { config } from './config.js';
import { PHASES } from './stages.js';
import { counted, of } from './thresholds.js';

/** The groups of a run with an event: its phases. Those of no length are left out. */
export const phases = PHASES.filter(([, end], at) => at > 0 && end > PHASES[at - 1][1]).map(([name]) => `phase:${name}`);

/** What handleSummary returns. `notes` are sentences computed from the groups. */
export function summarize(data, marks, groups, notes) {
  const numbers = Object.fromEntries(groups.map((group) => [group.split(':')[1], measured(data, group)]));
  const verdicts = counted(marks).map((mark) => judge(data, numbers, mark));
  const missed = verdicts.some((verdict) => !verdict.ok);
  const sent = count(data, 'http_reqs');
  const totals = {
    offered_per_second: config.rate,
    sent,
    not_sent: count(data, 'dropped_iterations'),
    failed: failures(data, 'http_req_failed'),
    seconds: config.seconds,
  };
  const said = notes ? notes(numbers, data) : [];
  const { scenario, nodes, environment } = config;
  const result = { schema: 1, ok: !missed, scenario, nodes, totals, groups: numbers, marks: verdicts, notes: said, environment };
  return {
    stdout: text(totals, numbers, verdicts, said),
    [`${config.results}/summary.json`]: `${JSON.stringify(result, null, 2)}\n`,
    [`${config.results}/verdict`]: missed ? 'missed\n' : 'ok\n',
    [`${config.results}/row`]: row(totals, numbers, missed ? 'MISSED' : verdicts.some((verdict) => verdict.doubt) ? 'ok, noisy' : 'ok'),
  };
}

function measured(data, group) {
  const metric = data.metrics[of('latency', group)];
  const values = metric ? metric.values : {};
  const rounded = (stat) => Math.round((values[stat] || 0) * 100) / 100;
  return {
    sent: count(data, of('http_reqs', group)),
    failed: failures(data, of('http_req_failed', group)),
    p50: rounded('med'),
    p90: rounded('p(90)'),
    p99: rounded('p(99)'),
    max: rounded('max'),
  };
}

function judge(data, numbers, mark) {
  const { name, unit = '', why } = mark;
  if (mark.metric) {
    const metric = data.metrics[mark.metric];
    const threshold = metric && metric.thresholds ? metric.thresholds[mark.limit] : undefined;
    // A metric that nothing was counted in, such as dropped_iterations in a good run, is not there at all.
    const ok = threshold ? threshold.ok : mark.metric === 'dropped_iterations';
    return { ok, name, measured: metric ? shown(metric) : '0', limit: mark.limit, why };
  }
  const value = mark.value(numbers);
  const doubt = (mark.doubt && mark.doubt(numbers)) || undefined;
  return { ok: value < mark.below, name, measured: `${value.toFixed(1)} ${unit}`, limit: `<${mark.below} ${unit}`, why, doubt };
}

function shown(metric) {
  const { values, type } = metric;
  if (type === 'rate') return `${values.passes} of ${values.passes + values.fails}`;
  if (type === 'trend') return `max ${values.max.toFixed(1)}`;
  return String(values.count !== undefined ? values.count : values.value);
}

function count(data, name) {
  const metric = data.metrics[name];
  return metric ? metric.values.count : 0;
}

// k6 counts a failed request as a pass of "failed".
function failures(data, name) {
  const metric = data.metrics[name];
  return metric ? metric.values.passes : 0;
}

function text(totals, numbers, verdicts, notes) {
  const lines = [''];
  const columns = ['sent', 'failed', 'p50', 'p90', 'p99', 'max'];
  lines.push(`${'ms'.padEnd(10)}${columns.map((name) => name.padStart(9)).join('')}`);
  for (const [group, values] of Object.entries(numbers)) {
    const cells = columns.map((name) => (name === 'sent' || name === 'failed' ? String(values[name]) : values[name].toFixed(1)));
    lines.push(`${group.padEnd(10)}${cells.map((cell) => cell.padStart(9)).join('')}`);
  }
  lines.push('', `${totals.sent} requests in ${totals.seconds} s, ${totals.not_sent} not sent, ${totals.failed} failed`, ...notes, '');
  for (const verdict of verdicts) {
    lines.push(`${verdict.ok ? 'ok    ' : 'MISSED'}  ${verdict.name}: ${verdict.measured} (${verdict.limit}: ${verdict.why})`);
    if (verdict.doubt) lines.push(`        ${verdict.doubt}`);
  }
  return `${lines.join('\n')}\n`;
}

// One line a run, for the table over several runs.
function row(totals, numbers, verdict) {
  const max = (name) => (numbers[name] ? numbers[name].max.toFixed(1) : '-');
  const p99 = (name) => (numbers[name] ? numbers[name].p99.toFixed(1) : '-');
  const cells = [config.scenario, totals.sent, totals.not_sent, totals.failed, p99('steady'), max('steady'), p99('event'), max('event'), max('after')];
  return `${cells.concat(verdict).join('\t')}\n`;
}
