/**
 * Loaded into the service before its own code (`NODE_OPTIONS=--import`): on SIGUSR2 its clock is
 * ahead by `CLOCK_AHEAD_MS`, which may be negative, or by 400 days.
 */
const { CLOCK_AHEAD_MS = String(400 * 86_400_000) } = process.env;
const RealDate = Date;
let ahead = 0;

process.on('SIGUSR2', () => {
  ahead = Number(CLOCK_AHEAD_MS);
});
globalThis.Date = new Proxy(RealDate, {
  construct: (_, args: []) =>
    args.length === 0 ? new RealDate(RealDate.now() + ahead) : new RealDate(...args),
  get: (target, name) =>
    name === 'now' ? () => RealDate.now() + ahead : Reflect.get(target, name, target),
});
