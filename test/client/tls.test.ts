import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { it } from 'node:test';
import { createServer } from 'node:tls';
import { connect } from '../../client/src/index.ts';
import { createCertificateAuthority } from '../../dev/certificates.ts';

it('the client speaks to nobody who has TLS 1.2 only', async () => {
  const ca = createCertificateAuthority('CA');
  const own = ca.issue({ subject: 'old', usage: 'server', ips: ['127.0.0.1'] });
  const client = ca.issue({ subject: 'test', usage: 'client' });
  const server = createServer({
    cert: own.certPem,
    key: own.keyPem,
    ALPNProtocols: ['h2'],
    maxVersion: 'TLSv1.2',
  });
  const refused = once(server, 'tlsClientError');
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  try {
    using keyward = connect({
      address: `127.0.0.1:${port}`,
      ca: ca.certPem,
      cert: client.certPem,
      key: client.keyPem,
      retries: 0,
    });
    await assert.rejects(keyward.getTenant({ name: 'tenants/acme' }), { code: 'UNAVAILABLE' });
    const [error] = (await refused) as [Error & { code: string }];
    assert.equal(error.code, 'ERR_SSL_UNSUPPORTED_PROTOCOL');
  } finally {
    server.close();
  }
});
