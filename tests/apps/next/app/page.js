import Link from 'next/link';

export default function Home() {
  return (
    <main>
      <h1>A static page</h1>
      <ul>
        {['/isr', '/isr-quick', '/dynamic', '/stream', '/action', '/picture', '/secret'].map((path) => (
          <li key={path}>
            <Link href={path}>{path}</Link>
          </li>
        ))}
      </ul>
    </main>
  );
}
