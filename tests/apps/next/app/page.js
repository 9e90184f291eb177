import Link from 'next/link';

import Counter from './counter.js';

export default function Home() {
  return (
    <main>
      <h1>A static page</h1>
      <Counter />
      <ul>
        {['/isr', '/isr-quick', '/dynamic', '/stream', '/action', '/form', '/picture', '/secret'].map((path) => (
          <li key={path}>
            <Link href={path}>{path}</Link>
          </li>
        ))}
      </ul>
    </main>
  );
}
