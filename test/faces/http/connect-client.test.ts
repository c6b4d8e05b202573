/**
 * A Connect client, as others write it, by every protocol that it has for this face.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { DescService } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { eventually, sharedService } from '../../support/kit.ts';
import { registry } from './as-json.ts';

const shared = sharedService(
  async (keyward) => {
    await keyward.createTenant({ tenantId: 'acme' });
    await keyward.createKey({ parent: 'tenants/acme', keyId: 'k' });
  },
  { KEYWARD_HTTP_LISTEN: '127.0.0.1:0' },
);
const KEY = 'tenants/acme/keys/k';

/** A client of a service whose code was not generated. */
type AnyClient = Readonly<
  Record<string, (request: object) => Promise<unknown> & AsyncIterable<Record<string, unknown>>>
>;

for (const httpVersion of ['1.1', '2'] as const) {
  for (const useBinaryFormat of [false, true]) {
    describe(`HTTP/${httpVersion}, ${useBinaryFormat ? 'protobuf' : 'JSON'}`, () => {
      const clientOf = (service: string): AnyClient => {
        const { ca, cert, key } = shared.service.connectOptions();
        const transport = createConnectTransport({
          baseUrl: `https://localhost:${shared.service.httpPort}`,
          httpVersion,
          useBinaryFormat,
          nodeOptions: { ca: String(ca), cert: String(cert), key: String(key) },
        });
        const description = registry.getService(`keyward.v1.${service}`) as DescService;
        return createClient(description, transport) as unknown as AnyClient;
      };

      test('encrypts and decrypts', async () => {
        const client = clientOf('EncryptionService');
        const plaintext = new Uint8Array([1, 2, 3]);
        const encryptionContext = { conversation: 'c-42' };
        const encrypted = await client['encrypt']?.({ name: KEY, plaintext, encryptionContext });
        const { ciphertext } = encrypted as { ciphertext: Uint8Array };
        const request = { parent: 'tenants/acme', ciphertext, encryptionContext };
        const decrypted = await client['decrypt']?.(request);
        assert.deepEqual((decrypted as { plaintext: Uint8Array }).plaintext, plaintext);
      });

      test('has an error’s code and details', async () => {
        const call = clientOf('KeyService')['getKey']?.({ name: 'tenants/acme/keys/none' });
        const error = await Promise.resolve(call).then(
          () => assert.fail('the call did not fail'),
          (thrown: unknown) => ConnectError.from(thrown),
        );
        assert.equal(error.code, Code.NotFound);
        assert.match(JSON.stringify(error.details), /RESOURCE_NOT_FOUND/);
      });

      test('reads a stream to its end', async () => {
        const client = clientOf('AuditService');
        await eventually(async () => {
          let messages = 0;
          for await (const _ of client['readTiles']?.({ treeSize: 1n }) ?? []) messages += 1;
          assert.ok(messages > 0);
        });
      });

      test('has a stream’s error', async () => {
        const read = async () => {
          for await (const _ of clientOf('AuditService')['readEntries']?.({ parent: 'x' }) ?? []);
        };
        await assert.rejects(read(), (error: ConnectError) => error.code === Code.InvalidArgument);
      });
    });
  }
}
