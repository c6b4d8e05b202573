import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { wireTokenStatus } from '../client/fake-service.ts';
import { useFakeService } from './fake.ts';

const fake = useFakeService();

describe('the status of the token', () => {
  it('has a head about the token, a row for each object with what is wrong of it, and what is to be done', async () => {
    const { code, stdout, stderr } = await fake.keyward('token status');
    assert.deepEqual([code, stderr, fake.seen['GetTokenStatus']], [0, '', {}]);
    const [token, model, module, profile, empty, head, root, seal, unrecorded, ...rest] =
      stdout.split('\n');
    assert.equal(
      token,
      'Token: keyward, serial 0123, of environment 018f0000-0000-4000-8000-000000000009',
    );
    assert.equal(model, 'Model: SoftHSM v2 by SoftHSM project, firmware 2.6, hardware 2.5');
    assert.equal(module, 'Module: Implementation of PKCS11 2.6 by SoftHSM');
    assert.match(profile ?? '', /^Profile: CKM_AES_KEY_WRAP .*; unsupported attributes: copyable$/);
    assert.match(head ?? '', /^ROLE +UID +TENANT +CURRENT +CONDITION +ATTRIBUTES +KEY VERSIONS$/);
    assert.match(
      root ?? '',
      /^ROOT +018f\S+a +tenants\/acme +yes +FOUND +1 ENFORCED, copyable WAIVED, extractable VIOLATED +1099511627776$/,
    );
    assert.match(seal ?? '', /^SEAL +018f\S+b +tenants\/system +no +MISSING +0 ENFORCED$/);
    assert.match(unrecorded ?? '', /^NOT RECORDED +00ff +labelled keyward root elsewhere$/);
    assert.equal(empty, '');
    assert.match(
      rest.join('\n'),
      /^\nUID +TO DO\n018f\S+a +Nothing is under it: keyward-server token destroy-key\n$/,
    );
  });

  it('ends with its objects when nothing is to be done about them', async () => {
    const { objects, ...token } = wireTokenStatus();
    fake.handlers['GetTokenStatus'] = () => ({
      ...token,
      objects: objects.map((object) => ({ ...object, toDo: '' })),
    });
    assert.match((await fake.keyward('token status')).stdout, /\nNOT RECORDED [^\n]+\n$/);
  });

  it('in JSON has every attribute of every object', async () => {
    const { stdout } = await fake.keyward('token status --output json');
    const { objects, unrecordedObjects, profile } = JSON.parse(stdout);
    assert.deepEqual(
      objects[0].attributes.map(({ name, state }: { name: string; state: string }) => [
        name,
        state,
      ]),
      [
        ['keyType', 'ENFORCED'],
        ['copyable', 'WAIVED'],
        ['extractable', 'VIOLATED'],
      ],
    );
    assert.deepEqual(unrecordedObjects, wireTokenStatus().unrecordedObjects);
    assert.deepEqual(profile, wireTokenStatus().profile);
  });

  it('shows nothing that could command a terminal', async () => {
    fake.handlers['GetTokenStatus'] = () => ({
      ...wireTokenStatus(),
      label: 'a\u001b[2Jb',
      unrecordedObjects: [{ uid: 'u', label: 'c\u001b[2Jd' }],
    });
    const { stdout } = await fake.keyward('token status');
    assert.match(stdout, /Token: a\?\[2Jb,/);
    assert.match(stdout, /labelled c\?\[2Jd/);
  });

  it('that can not be had is a failure', async () => {
    fake.refuse('GetTokenStatus', { code: status.UNAVAILABLE, reason: 'HSM_UNAVAILABLE' });
    const { code, stdout, stderr } = await fake.keyward('token status --timeout 1');
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(stderr, /HSM_UNAVAILABLE/);
  });
});
