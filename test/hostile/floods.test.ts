/**
 * Floods by callers of every kind: those with a certificate, those with none where tokens may take its place, those whose
 * certificate is of another CA. None ends, blocks or fills the server. What they do is `floods.ts`.
 */
import { after, before, describe, test } from 'node:test';
import { FLOODS, HEALTH_FLOODS } from './floods.ts';
import { CREDENTIALS, type FloodedService, startFlooded } from './rig.ts';

let flooded: FloodedService;

describe('the server outlives', () => {
  before(async () => {
    flooded = await startFlooded({ acceptsTokens: true });
  });
  after(async () => {
    await flooded?.[Symbol.asyncDispose]();
  });

  for (const flood of FLOODS) {
    for (const kind of CREDENTIALS)
      test(`${flood.name}, with ${kind}`, { timeout: 120_000 }, () => flooded.survives(flood, kind));
  }
  for (const flood of HEALTH_FLOODS) test(flood.name, () => flooded.survives(flood, 'no certificate'));
});
