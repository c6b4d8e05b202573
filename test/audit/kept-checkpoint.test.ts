/**
 * The checkpoint behind a URL when what answers there does so badly.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, test } from 'node:test';
import { type KeptCheckpoint, openKeptCheckpoint } from '../../src/audit/kept-checkpoint.ts';
import { eventually } from '../support/kit.ts';

async function withServer(
  serve: RequestListener,
  work: (kept: KeptCheckpoint, connections: () => Promise<number>) => Promise<void>,
): Promise<void> {
  const server = createServer(serve);
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as AddressInfo;
  const connections = () =>
    new Promise<number>((resolve, reject) =>
      server.getConnections((error, count) => (error ? reject(error) : resolve(count))),
    );
  try {
    await work(openKeptCheckpoint(`http://127.0.0.1:${port}/`), connections);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

describe('the checkpoint behind a URL', () => {
  test('is read no further than one can be long', async () => {
    let sent = 0;
    await withServer(
      (_, response) => {
        response.on('error', () => {});
        const more = () => {
          while (!response.destroyed && response.write(Buffer.alloc(65_536, 'x'))) sent += 65_536;
        };
        response.on('drain', more);
        more();
      },
      async (kept) => {
        await assert.rejects(kept.read(), /something larger than a checkpoint/);
        assert.ok(sent < 2 ** 24, `${sent} bytes were sent`);
      },
    );
  });

  test('holds no connection whose answer is of no use and never ends', async () => {
    await withServer(
      (request, response) => {
        request.resume();
        response.writeHead(request.method === 'GET' ? 500 : 200);
        response.write('never ends');
      },
      async (kept, connections) => {
        await assert.rejects(kept.read(), /answers 500/);
        await kept.write('a note');
        await eventually(async () => assert.equal(await connections(), 0));
      },
    );
  });

  test('that breaks off fails the reading, and nothing else', async () => {
    await withServer(
      (_, response) => {
        response.writeHead(200, { 'content-length': '100' });
        response.write('half', () => response.destroy());
      },
      async (kept) => {
        await assert.rejects(kept.read());
        await assert.rejects(kept.write('a note').then(() => kept.read()));
      },
    );
  });
});
