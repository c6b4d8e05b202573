/**
 * What a second start in one clone says of the first.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { writePrivateJson } from '../../dev/files.ts';
import { type StartState, whoServes } from '../../dev/start-state.ts';
import { identify } from '../../scripts/processes.js';

const directory = mkdtempSync(join(tmpdir(), 'keyward-start-'));
after(() => rmSync(directory, { recursive: true }));
const file = join(directory, 'start.json');
const starter = identify(process.pid);
assert.ok(starter !== undefined);
const state: StartState = { starter, address: '127.0.0.1:7443', serving: true };

test('a second start says which process serves, and where', async () => {
  writePrivateJson(file, state);
  assert.equal(
    await whoServes(file, 0),
    `cannot start: process ${process.pid} already serves this clone on 127.0.0.1:7443`,
  );
});

test('a second start waits for one that is still starting', async () => {
  writePrivateJson(file, { ...state, serving: false });
  const waiting = whoServes(file, 5_000);
  writePrivateJson(file, { ...state, address: '127.0.0.1:7444' });
  assert.match(await waiting, /already serves this clone on 127\.0\.0\.1:7444/);
});

test('what an earlier process of the same id wrote down is not believed', async () => {
  writePrivateJson(file, { ...state, starter: { ...starter, startTime: starter.startTime - 1 } });
  assert.equal(
    await whoServes(file, 0),
    "cannot start: another process is already starting this clone's environment",
  );
});
