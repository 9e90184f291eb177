export const metadata = { title: 'Edgeway test app', icons: '/picture.png' };

export default function Layout({ children }) {
  return (
    <html lang="en">
      <body>{children}</body>
    </html>
  );
}
