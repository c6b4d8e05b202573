import assert from 'node:assert/strict';
import { it } from 'node:test';
import { startFakeService, wireTokenStatus } from './fake-service.ts';

it("a token's status comes in friendly words, and what is newer than the client as UNSPECIFIED", async () => {
  const wire = wireTokenStatus();
  const [root, seal] = wire.objects;
  const newer = {
    uid: 'n',
    role: 77,
    current: true,
    condition: 78,
    attributes: [{ name: 'a', requiredValue: 'b', state: 79 }],
    keyVersions: 0,
    tenant: 'tenants/system',
    toDo: '',
  };
  await using service = await startFakeService({
    GetTokenStatus: () => ({ ...wire, objects: [...wire.objects, newer] }),
  });
  using keyward = service.connect();
  const { objects, ...token } = await keyward.getTokenStatus();
  const { objects: _, ...expected } = wire;
  assert.deepEqual(token, expected);
  assert.deepEqual(objects, [
    {
      ...root,
      role: 'ROOT',
      condition: 'FOUND',
      attributes: [
        { name: 'keyType', requiredValue: 'CKK_AES', state: 'ENFORCED' },
        { name: 'copyable', requiredValue: 'false', state: 'WAIVED' },
        { name: 'extractable', requiredValue: 'false', state: 'VIOLATED' },
      ],
    },
    { ...seal, role: 'SEAL', condition: 'MISSING' },
    {
      ...newer,
      role: 'UNSPECIFIED',
      condition: 'UNSPECIFIED',
      attributes: [{ name: 'a', requiredValue: 'b', state: 'UNSPECIFIED' }],
    },
  ]);
});

it('a status without its module or its profile is refused', async () => {
  for (const part of ['module', 'profile']) {
    await using service = await startFakeService({
      GetTokenStatus: () => ({ ...wireTokenStatus(), [part]: null }),
    });
    using keyward = service.connect();
    await assert.rejects(
      keyward.getTokenStatus(),
      new RegExp(`the answer lacks TokenStatus\\.${part}`),
    );
  }
});
