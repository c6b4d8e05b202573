/**
 * Loaded into the service before its own code (`NODE_OPTIONS=--import`): on SIGUSR2 something fails
 * in it that nobody foresaw. `UNFORESEEN` says how: `exception`, from a timer; `rejection`, of a
 * promise that nobody awaits; `value`, the same with what is no Error. Each has {@link SECRET} with
 * it where a careless log would show it.
 */

/** What may not get into any log. */
const SECRET = process.env['UNFORESEEN_SECRET'];

process.on('SIGUSR2', () => {
  const cause = Object.assign(new RangeError('what it came of'), { request: SECRET });
  const error = Object.assign(new TypeError('nobody foresaw this', { cause }), {
    plaintext: SECRET,
  });
  const kind = process.env['UNFORESEEN'];
  if (kind === 'rejection') void Promise.reject(error);
  else if (kind === 'value') void Promise.reject(SECRET);
  else
    setTimeout(() => {
      throw error;
    });
});
