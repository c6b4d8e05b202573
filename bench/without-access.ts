/**
 * For `node --import`: has the server that is loaded next be without identity and access.
 *
 * The server itself has no such switch, and must have none: this replaces two of its modules as
 * they are resolved, by `open-access.ts`. All else of it is as it is.
 */
import { registerHooks } from 'node:module';

const REPLACED = /\/access\/(access|identity)\.[jt]s$/;
const REPLACEMENT = new URL('./open-access.ts', import.meta.url).href;

registerHooks({
  resolve(specifier, context, nextResolve) {
    const resolved = nextResolve(specifier, context);
    return REPLACED.test(resolved.url)
      ? { ...resolved, url: REPLACEMENT, format: 'module-typescript' }
      : resolved;
  },
});
