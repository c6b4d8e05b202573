/**
 * Loaded before a process' own program by `npm run bench -- --profile`: SIGUSR2 begins a CPU
 * profile, the next one ends it and writes it to the folder that KEYWARD_BENCH_PROFILES names.
 * Never part of a service that is measured or deployed.
 */
import { renameSync, writeFileSync } from 'node:fs';
import { type Profiler, Session } from 'node:inspector';
import { join } from 'node:path';

const SAMPLE_MICROSECONDS = 200;
const directory = process.env['KEYWARD_BENCH_PROFILES'] ?? '.';
const session = new Session();
session.connect();
session.post('Profiler.enable');
session.post('Profiler.setSamplingInterval', { interval: SAMPLE_MICROSECONDS });
let profiling = false;

process.on('SIGUSR2', () => {
  profiling = !profiling;
  if (profiling) session.post('Profiler.start');
  else session.post('Profiler.stop', (error, { profile }) => error ?? write(profile));
});

function write(profile: Profiler.Profile): void {
  const file = join(directory, `${process.pid}.cpuprofile`);
  writeFileSync(`${file}.new`, JSON.stringify(profile), { mode: 0o600 });
  renameSync(`${file}.new`, file);
}
