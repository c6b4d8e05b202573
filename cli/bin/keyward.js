#!/usr/bin/env node
/**
 * Runs the `keyward` command from its sources, in a clone. The package has them bundled instead.
 *
 * - What Node makes of the sources is kept in node_modules, so that it need not load what strips
 *   types: measured, a command takes a third of the processor's time from then on, and 25 MB less.
 *
 * Plain JavaScript, for the same reason; imports nothing before it has looked at Node's release.
 */
const LEAST_NODE = 24;

const [major] = process.versions.node.split('.');
if (Number(major) < LEAST_NODE) {
  process.stderr.write(
    `keyward: cannot run from its sources on Node ${process.versions.node}: they need Node ` +
      `${LEAST_NODE}, which "npx keyward" uses in the clone\n`,
  );
  process.exit(1);
}
const [{ enableCompileCache }, { join }] = await Promise.all([
  import('node:module'),
  import('node:path'),
]);
const modules = join(import.meta.dirname, '..', '..', 'node_modules');
enableCompileCache(join(modules, '.cache', 'keyward-command'));
await import('../src/main.ts');
