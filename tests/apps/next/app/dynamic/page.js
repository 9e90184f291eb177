import { cookies, headers } from 'next/headers';

import { instance } from '../../lib/instance.js';

/** Shows the headers of the request, so it must never be stored for another visitor. */
export default async function Dynamic() {
  const user = (await cookies()).get('user')?.value ?? 'nobody';
  const sent = [...(await headers())].sort();
  return (
    <main>
      <h1>{`user:${user}`}</h1>
      <p>{`instance:${instance().port}`}</p>
      <pre>{sent.map(([name, value]) => `${name}=${value}`).join('\n')}</pre>
    </main>
  );
}
