/** Ports of starts that choose at one moment, in one process and in several. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { holdPort } from '../../dev/ports.ts';

const PORTS = join(import.meta.dirname, '..', '..', 'dev', 'ports.ts');
const TRIED = 100;

/**
 * A port that somebody listens on as long as this is open, and after which there are some that
 * nobody does.
 */
async function takenPort() {
  for (;;) {
    const server = createServer();
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const { port } = server.address() as AddressInfo;
    if (port + TRIED < 65_536) return { port, [Symbol.dispose]: () => server.close() };
    server.close();
  }
}

/** Another process that takes a port, says which, and goes on until it is killed. */
async function startHolder(first: number) {
  const script = `
    const { holdPort } = await import(${JSON.stringify(PORTS)});
    const { port } = await holdPort(${first}, ${TRIED});
    console.log(port);
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = await once(child.stdout, 'data');
  const end = async () => {
    child.kill('SIGKILL');
    await once(child, 'exit');
  };
  return { port: Number(line), [Symbol.asyncDispose]: end };
}

test('starts at one moment take different ports, none of which anybody listens on', async () => {
  using taken = await takenPort();
  const held = await Promise.all(Array.from({ length: 8 }, () => holdPort(taken.port, TRIED)));
  assert.equal(new Set(held.map(({ port }) => port)).size, held.length);
  assert.ok(held.every(({ port }) => port > taken.port));
  for (const port of held) port[Symbol.dispose]();
});

test('processes, too; and the port of one that was killed is free again', async () => {
  using taken = await takenPort();
  const holders = await Promise.all([
    startHolder(taken.port),
    startHolder(taken.port),
    startHolder(taken.port),
  ]);
  const ports = holders.map(({ port }) => port);
  assert.equal(new Set(ports).size, ports.length);
  for (const holder of holders) await holder[Symbol.asyncDispose]();
  using again = await holdPort(Math.min(...ports), TRIED);
  assert.equal(again.port, Math.min(...ports));
});

test('a port is held before its server listens, against anybody, and after it has stopped, against starts', async () => {
  using taken = await takenPort();
  using held = await holdPort(taken.port, TRIED);
  const stranger = createServer();
  await assert.rejects(once(stranger.listen(held.port, '127.0.0.1'), 'listening'), {
    code: 'EADDRINUSE',
  });
  await held.giveToServer();
  const server = createServer();
  await once(server.listen(held.port, '127.0.0.1'), 'listening');
  await new Promise((resolve) => server.close(resolve));
  using other = await holdPort(held.port, TRIED);
  assert.notEqual(other.port, held.port);
});

test('says so when there is none', async () => {
  using taken = await takenPort();
  await assert.rejects(
    holdPort(taken.port, 1),
    new RegExp(`cannot find a free port: ${taken.port} to ${taken.port} are in use`),
  );
});
