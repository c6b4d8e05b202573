/**
 * What JSON over HTTP costs beside gRPC, measured: the same Encrypt by both listeners of one
 * service, in turn.
 */
import type { Environment } from './environment.ts';
import { alternate, type Load, measureSlice, type Row, type Timing } from './measure.ts';
import { encryptAsJson, type Workload } from './workloads.ts';

export const HTTP_ROWS = {
  floor: 'Encrypt over gRPC',
  thing: 'Encrypt as JSON over HTTP',
} as const;
const IN_FLIGHT = 64;

/** Both rows, on the bench's environment. */
export async function measureHttp(
  { target, httpAddress }: Environment,
  load: Load,
  encrypt: Workload,
  timing: Timing & { readonly warmUpMs: number },
): Promise<Row[]> {
  const floor = [target, { ...encrypt, name: HTTP_ROWS.floor }] as const;
  const http = { ...target, address: httpAddress };
  const thing = [http, encryptAsJson(encrypt, HTTP_ROWS.thing)] as const;
  const warmUp = { rampMs: 0, measureMs: timing.warmUpMs, inFlight: 10 };
  await measureSlice(load, ...thing, warmUp);
  return await alternate(load, floor, [thing], { ...timing, inFlight: IN_FLIGHT });
}
