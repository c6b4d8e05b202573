#!/usr/bin/env node
/**
 * Starts `keyward-server`, if Node is new enough to read it.
 *
 * Imports nothing before it has looked, and is plain enough for any Node.
 */
const LEAST_NODE = 24;

const [major = ''] = process.versions.node.split('.');
if (Number(major) < LEAST_NODE) {
  process.stderr.write(
    `keyward-server: cannot run on Node ${process.versions.node}: it needs Node ${LEAST_NODE}; ` +
      `this is ${process.execPath}\n`,
  );
  process.exit(1);
}
await import('./program.ts');

export {};
