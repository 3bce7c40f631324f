//! A game that owns the device and draws frames while an answer is generated within a budget per frame.
//!
//! `cargo run --release --example frame_loop -- MODEL.gguf [BUDGET_MS]`
//!
//! Prints the percentiles of the frame time without and with the answer. The "game" clears a picture and waits
//! for it; what matters is that benben never makes it wait for more than about the budget.

use std::time::{Duration, Instant};

use benben::wgpu;
use benben::{GenerateOptions, Gpu, LoadOptions, Message, Model, Session, SessionOptions};

const FRAMES: usize = 120;

/// The host's device and the picture that it draws to.
struct Game {
    device: wgpu::Device,
    queue: wgpu::Queue,
    picture: wgpu::Texture,
}

impl Game {
    async fn open() -> Result<(Self, wgpu::Adapter), Box<dyn std::error::Error>> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
        let descriptor = wgpu::DeviceDescriptor {
            required_features: adapter.features() & benben::gpu::optional_features(),
            required_limits: benben::gpu::required_limits(&adapter),
            ..Default::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await?;
        let picture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("picture"),
            size: wgpu::Extent3d { width: 640, height: 360, depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba8Unorm,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
            view_formats: &[],
        });
        Ok((Self { device, queue, picture }, adapter))
    }

    /// Draws one frame and waits until the device has finished it.
    fn draw(&self, frame: usize) -> Result<(), wgpu::PollError> {
        let view = self.picture.create_view(&wgpu::TextureViewDescriptor::default());
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let color = wgpu::Color { r: (frame % 60) as f64 / 60.0, g: 0.4, b: 0.6, a: 1.0 };
        encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view: &view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations { load: wgpu::LoadOp::Clear(color), store: wgpu::StoreOp::Store },
            })],
            ..Default::default()
        });
        let index = self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None })?;
        Ok(())
    }
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let (middle, high, most) = (at(0.5), at(0.95), at(1.0));
    println!(
        "{name}: {} frames, median {middle:.2} ms, 95 % {high:.2} ms, longest {most:.2} ms",
        times.len()
    );
}

async fn play(path: &str, budget: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let (game, adapter) = Game::open().await?;
    let gpu = Gpu::adopt(&adapter, game.device.clone(), game.queue.clone());
    let model = Model::load(&gpu, path, &LoadOptions::default(), |_| ()).await?;
    let mut session = Session::new(&model, &SessionOptions { context: Some(256), ..Default::default() })?;
    session.warm_up().await?;
    session.append(&model.text().prompt(&[Message::user("Greet the traveller in one sentence.")])?)?;

    let mut alone = Vec::new();
    for frame in 0..FRAMES {
        let start = Instant::now();
        game.draw(frame)?;
        alone.push(start.elapsed());
    }
    let (mut together, mut tokens) = (Vec::new(), Vec::new());
    let mut answer = session.generate(&GenerateOptions { max_tokens: 16, ..Default::default() })?;
    loop {
        let start = Instant::now();
        let step = answer.step(budget)?;
        tokens.extend(step.tokens);
        game.draw(together.len())?;
        together.push(start.elapsed());
        if step.finished {
            break;
        }
    }
    println!("{}, {} ms of each frame for the answer", gpu.describe(), budget.as_millis());
    report("without an answer", alone);
    report("with an answer   ", together);
    println!("{}", model.text().decode(&tokens)?.trim());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "model.gguf".to_owned());
    let budget = args.next().map_or(Ok(4), |ms| ms.parse())?;
    pollster::block_on(play(&path, Duration::from_millis(budget)))
}
