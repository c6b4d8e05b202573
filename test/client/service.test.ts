/** The client against the service itself: what matters most where the two meet. */
import assert from 'node:assert/strict';
import { type AddressInfo, createServer, connect as netConnect, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { connect } from '../../client/src/index.ts';
import { type Environment, newEnvironment, type Service, startService } from '../kit.ts';

const PARENT = 'tenants/acme';

let environment: Environment;
let service: Service;

before(async () => {
  environment = await newEnvironment();
  service = await startService(environment);
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
    const unheard = async <Answer>(method: string, call: () => Promise<Answer>): Promise<Answer> => {
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
    const versions = await Array.fromAsync(keyward.keyVersions(key.name));
    assert.equal(versions.length, 2);
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
    await assert.rejects(keyward.encrypt({ name, plaintext: Buffer.from('p'), plaintextCrc32c: 1 }), {
      code: 'INVALID_ARGUMENT',
      reason: 'CHECKSUM_MISMATCH',
    });
  });
});
