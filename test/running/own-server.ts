/**
 * An environment on a PostgreSQL server of its own.
 */
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { createRoles, type Postgres, startPostgres } from '../../dev/postgres.ts';
import { copyToken, tokenVariables } from '../../softhsm/token.ts';
import { runSql } from '../store/database.ts';
import { grantEverything } from '../support/grants.ts';
import { type Environment, newEnvironment, runCommand } from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';

/** An environment on a PostgreSQL server of its own, which may be stopped. */
export async function environmentWithServer(): Promise<{
  readonly environment: Environment;
  readonly postgres: Postgres;
}> {
  const shared = await newEnvironment();
  const postgres = await startPostgres({
    directory: mkdtempSync(join(shared.directory, 'postgres-')),
    say: () => {},
  });
  await createRoles(postgres, 'keyward');
  const token = copyToken(
    String(process.env['KEYWARD_TEST_TOKEN_TEMPLATE']),
    join(shared.directory, 'own-token'),
    shared.token.label,
  );
  const urls = {
    service: postgres.serviceUrl('keyward'),
    owner: postgres.ownerUrl('keyward'),
    superuser: postgres.superuserUrl('keyward'),
  };
  const environment: Environment = {
    ...shared,
    token,
    urls,
    variables: { ...shared.variables, ...tokenVariables(token), DATABASE_URL: urls.service },
    [Symbol.asyncDispose]: async () => {
      await postgres.remove();
      await shared[Symbol.asyncDispose]();
    },
  };
  // The token belongs to the template's environment, and a new database would be another: it takes
  // over that one's rows.
  assert.equal((await runCommand(environment, ['migrate'])).code, 0);
  const [template] = await runSql<{ environment_id: string }>(
    shared.urls.superuser,
    'SELECT environment_id FROM environment',
  );
  await runSql(urls.superuser, 'UPDATE environment SET environment_id = $1', [
    template?.environment_id,
  ]);
  const { code, output } = await runCommand(environment, ['token', 'init']);
  assert.equal(code, 0, output);
  await grantEverything(environment.variables, [TESTER]);
  return { environment, postgres };
}
