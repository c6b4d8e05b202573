/** The client against the service itself: what matters most where the two meet. */
import assert from 'node:assert/strict';
import { type AddressInfo, createServer, connect as netConnect, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { connect } from '../../client/src/index.ts';
import { type Environment, newEnvironment, type Service, startService } from '../support/kit.ts';

const PARENT = 'tenants/acme';

let environment: Environment;
let service: Service;

before(async () => {
  environment = await newEnvironment();
  service = await startService(environment, {
    KEYWARD_MAINTENANCE_TICKS: '* * * * * *',
    KEYWARD_MAINTENANCE_JITTER_MS: '0',
  });
  await service.client().createTenant({ tenantId: 'acme' });
});

after(async () => {
  await service?.[Symbol.asyncDispose]();
  await environment?.[Symbol.asyncDispose]();
});

/** Passes connections on to the service; while `deaf`, what the service answers goes nowhere. */
async function startRelay() {
  const sockets = new Set<Socket>();
  const relay = { deaf: false, port: 0, cut: () => {}, [Symbol.asyncDispose]: async () => {} };
  const server = createServer((near) => {
    const far = netConnect(service.port, '127.0.0.1');
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    near.on('data', (data) => far.write(data));
    far.on('data', (data) => relay.deaf || near.write(data));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  relay.port = (server.address() as AddressInfo).port;
  relay.cut = () => {
    relay.deaf = false;
    for (const socket of sockets) socket.destroy();
  };
  relay[Symbol.asyncDispose] = async () => {
    relay.cut();
    await new Promise((resolve) => server.close(resolve));
  };
  return relay;
}

describe('a change whose answer is lost with the connection', () => {
  it('is sent again, made once, and answered', async () => {
    await using relay = await startRelay();
    using keyward = connect({ ...service.connectOptions(), address: `127.0.0.1:${relay.port}` });
    /** Does it while nothing comes back, and cuts the connection once it is done. */
    const unheard = async <Answer>(
      method: string,
      call: () => Promise<Answer>,
    ): Promise<Answer> => {
      const from = service.log.length;
      relay.deaf = true;
      const answer = call();
      await service.logged((line) => line['method'] === method && line['outcome'] === 'OK', from);
      relay.cut();
      return answer;
    };
    await keyward.getTenant({ name: PARENT });
    const key = await unheard('keyward.v1.KeyService/CreateKey', () =>
      keyward.createKey({ parent: PARENT, keyId: 'lost' }),
    );
    assert.equal(key.name, `${PARENT}/keys/lost`);
    const rotated = await unheard('keyward.v1.KeyService/RotateKey', () =>
      keyward.rotateKey({ name: key.name, etag: key.etag }),
    );
    assert.equal(rotated.primary.name, `${key.name}/versions/2`);
    const roleBinding = { principal: 'spiffe://keyward.test/lost', role: 'roles/encrypter' };
    const bound = await unheard('keyward.v1.AccessService/CreateRoleBinding', () =>
      keyward.createRoleBinding({ parent: PARENT, roleBinding }),
    );
    assert.deepEqual(await Array.fromAsync(keyward.roleBindings(PARENT)), [bound]);
    const versions = await Array.fromAsync(keyward.keyVersions(key.name));
    assert.equal(versions.length, 2);
  });
});

describe('a watched job', () => {
  it('is followed over a lost connection to its end, with all data keys under the new version', async () => {
    await using relay = await startRelay();
    using keyward = connect({ ...service.connectOptions(), address: `127.0.0.1:${relay.port}` });
    const { name } = await keyward.createKey({ parent: PARENT, keyId: 'kept' });
    const context = { use: 'test' };
    const created = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        keyward.createDataKey({
          parent: name,
          dataKeyId: `d${i}`,
          encryptionContext: context,
          returnPlaintext: true,
        }),
      ),
    );
    // So that the job is still under way when the connection goes.
    await keyward.updateKey({ key: { name, maintenancePaused: true } });
    const rotated = await keyward.rotateKey({ name });
    const { rotations } = await keyward.listRotations({ parent: name });
    assert.equal(rotations[0]?.toVersion, rotated.primary.name);
    const states: string[] = [];
    for await (const { state, paused } of keyward.watchRewrapJob({
      name: rotations[0]?.rewrapJob ?? '',
    })) {
      if (states.length === 0) {
        assert.deepEqual([state, paused], ['RUNNING', true]);
        relay.cut();
        await keyward.updateKey({ key: { name, maintenancePaused: false } });
      }
      states.push(state);
    }
    assert.equal(states.at(-1), 'SUCCEEDED');
    const stored = await Array.fromAsync(keyward.dataKeys(name, { pageSize: 7 }));
    assert.deepEqual(
      stored.map(({ keyVersion }) => keyVersion),
      Array(20).fill(rotated.primary.name),
    );
    for (const { dataKey, plaintext } of created.slice(0, 3)) {
      const again = await keyward.getDataKey({ name: dataKey.name, encryptionContext: context });
      assert.deepEqual(again.plaintext, plaintext);
    }
  });

  it('is heard of no more, by the service too, when the loop is left', async () => {
    using keyward = connect(service.connectOptions());
    const { name } = await keyward.createKey({ parent: PARENT, keyId: 'left' });
    await keyward.createDataKey({ parent: name });
    await keyward.updateKey({ key: { name, maintenancePaused: true } });
    await keyward.rotateKey({ name });
    // The rotation's own, which is under way.
    const job = await keyward.createRewrapJob({ scope: name });
    const from = service.log.length;
    for await (const { state } of keyward.watchRewrapJob({ name: job.name })) {
      assert.equal(state, 'RUNNING');
      break;
    }
    const line = await service.logged(
      ({ method }) => method === 'keyward.v1.RotationService/WatchRewrapJob',
      from,
    );
    assert.equal(line['outcome'], 'CALL_CANCELLED');
    const { state } = await keyward.cancelRewrapJob({ name: job.name });
    assert.equal(state, 'CANCELLED');
  });
});

describe('checksums', () => {
  it('may be switched off, and everything else is as before', async () => {
    using keyward = connect({ ...service.connectOptions(), checksums: false });
    const { name } = await keyward.createKey({ parent: PARENT, keyId: 'unchecked' });
    const sealed = await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    assert.equal(sealed.verifiedPlaintextCrc32c, false);
    const opened = await keyward.decrypt({ parent: PARENT, ciphertext: sealed.ciphertext });
    assert.equal(opened.plaintext.toString(), 'p');
  });

  it('that the caller brings are compared by the service, not by the client', async () => {
    const keyward = service.client();
    const { name } = await keyward.createKey({ parent: PARENT, keyId: 'checked' });
    await assert.rejects(
      keyward.encrypt({ name, plaintext: Buffer.from('p'), plaintextCrc32c: 1 }),
      {
        code: 'INVALID_ARGUMENT',
        reason: 'CHECKSUM_MISMATCH',
      },
    );
  });
});
