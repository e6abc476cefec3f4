// What run.sh decided for this run, read once and refused when it makes no sense.

function number(name, least) {
  const value = Number(__ENV[name]);
  if (__ENV[name] === undefined || !Number.isFinite(value) || value < least) {
    throw new Error(`${name} is '${__ENV[name]}': start this by loadtest/run.sh`);
  }
  return value;
}

function address(name, allowed) {
  const value = __ENV[name] || '';
  if (!allowed.test(value)) {
    throw new Error(`${name} is '${value}': load goes to this machine's own fleet only, see loadtest/run.sh`);
  }
  return value;
}

export const config = {
  scenario: __ENV.SCENARIO,
  // Envoy's published port. Nothing but loopback is accepted, so that a slip cannot load somebody else's machine.
  target: address('TARGET', /^http:\/\/127(\.\d{1,3}){3}:\d+$/),
  // One node of the same fleet, past Envoy: to see what Envoy costs. Private addresses only, by the same reasoning.
  direct: __ENV.DIRECT
    ? address('DIRECT', /^http:\/\/(10|172\.(1[6-9]|2\d|3[01])|192\.168)(\.\d{1,3}){2,3}:\d+$/)
    : '',
  rate: number('RATE', 1),
  nodes: number('NODES', 1),
  seconds: number('DURATION', 1),
  // The run's parts in seconds: the first is thrown away, the second is compared with the third; the rest is `after`.
  warm: number('WARM', 0),
  steady: number('STEADY', 0),
  event: number('EVENT', 0),
  // Without latency marks only losses count: for a busy machine, where a latency says nothing.
  latency: __ENV.LATENCY !== 'no',
  // One more k6 threshold of the caller's, METRIC:EXPRESSION.
  threshold: __ENV.THRESHOLD || '',
  // Requests slower than this are logged one by one, with the node that answered.
  slow: 50,
  results: __ENV.RESULTS,
  environment: __ENV.ENVIRONMENT ? JSON.parse(open(__ENV.ENVIRONMENT)) : {},
};
