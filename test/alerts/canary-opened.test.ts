/**
 * From a stolen token to a person: a canary that it wants opened is told to a receiver, with the
 * caller named, over the wire at both ends.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { AccessRig } from '../access/access-rig.ts';
import { eventually } from '../support/kit.ts';
import { hook, receiversIn, Webhook } from './rig.ts';

const KEY = 'tenants/acme/keys/k';

test('a canary that a stolen token wants opened is told to a receiver, which reads whose token it was', async (t) => {
  await using webhook = await Webhook.start();
  const directory = mkdtempSync(join(tmpdir(), 'keyward-canary-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const receiver = hook('security', webhook, { alerts: ['canary-opened'] });
  await using rig = await AccessRig.start(receiversIn({ directory }, [receiver]));
  const { canary, ciphertext } = (await rig.done('CanaryService/CreateCanary', {
    ...{ parent: KEY, canaryId: 'transcripts', kind: 'CANARY_KIND_CIPHERTEXT' },
  })) as { canary: { name: string }; ciphertext: Buffer };
  await rig.bind('acme', 'jwt:corp/assistant', 'decrypter');
  const stolen = rig.tokened('assistant', ['acme']);
  const began = performance.now();
  const request = { parent: 'tenants/acme', ciphertext };
  const { reason } = await rig.ask(stolen, 'EncryptionService/Decrypt', request, rig.service);
  assert.equal(reason, 'DECRYPTION_FAILED');
  const told = await eventually(() => {
    const [first] = webhook.bodies;
    assert.ok(first);
    return first;
  });
  t.diagnostic(`${Math.round(performance.now() - began)} ms from the call to the receiver`);
  const { fields } = told['data'] as { fields: Record<string, unknown> };
  assert.equal(fields['caller'], 'jwt:corp/assistant');
  assert.equal(fields['canary'], canary.name);
});
