/**
 * What JSON over HTTP costs beside gRPC: the same Encrypt by both listeners of one service, in
 * turn.
 */
import { type Bench, encryptOf, say, warmUp } from './bench.ts';
import { paragraph } from './markdown.ts';
import { alternate } from './measure.ts';
import { rowTable } from './row-table.ts';
import { encryptAsJson } from './workloads.ts';

const FULL = { rampMs: 150, measureMs: 700, rounds: 5, warmUpMs: 1_500 };
const QUICK = { rampMs: 20, measureMs: 100, rounds: 1, warmUpMs: 50 };
const IN_FLIGHT = 64;

const METHOD = `
  The cost of JSON: the same Encrypt by the HTTP listener of the same service, with Node's own
  HTTP/2 client, beside that over gRPC, which is the floor here.`;

/** See this file's first paragraph. */
export const http: Bench = {
  name: 'http',
  title: 'JSON over HTTP',
  measures: 'what JSON over HTTP costs beside gRPC',
  async run(context) {
    say('HTTP …');
    const { load, isQuick } = context;
    const { target, httpAddress } = context.environment;
    const plan = isQuick ? QUICK : FULL;
    const encrypt = encryptOf(context);
    const floor = [target, { ...encrypt, name: 'Encrypt over gRPC' }] as const;
    const byHttp = encryptAsJson(encrypt, 'Encrypt as JSON over HTTP');
    const thing = [{ ...target, address: httpAddress }, byHttp] as const;
    await warmUp(load, [floor, thing], plan.warmUpMs);
    const rows = await alternate(load, floor, [thing], { ...plan, inFlight: IN_FLIGHT });
    return { text: [paragraph(METHOD), rowTable(rows)].join('\n\n'), targets: [] };
  },
};
