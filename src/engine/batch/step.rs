//! One step: a token of every sequence that decodes, and beside them a bounded piece of the next prompts.

use super::core::{Core, Flight, Seat};
use crate::Result;
use crate::engine::sequence::Desk;
use crate::engine::work::{Course, Kind, Work, not_reserved};
use crate::kernels::sample::sample;
use crate::model::Model;

impl Seat {
    /// True when its prompt has run and a token of its answer is next.
    fn decodes(&self) -> bool {
        let next =
            |course: &Course| course.total < self.seq.context && self.seq.next_kind(course) == Kind::Decode;
        self.course.as_ref().is_some_and(next)
    }

    /// True when its prompt has yet to run, or to run on.
    fn prefills(&self) -> bool {
        self.course.as_ref().is_none_or(|course| self.seq.next_kind(course) == Kind::Prefill)
    }

    /// True when a step can do anything for it.
    pub fn has_work(&self) -> bool {
        self.decodes() || self.prefills()
    }
}

/// The sequences that get a token in a step.
#[derive(Debug, Default)]
struct Drawing {
    /// Those whose hidden rows wait for the head, in the order of the rows.
    rows: Vec<u64>,
    /// Those whose tokens are drawn.
    drawn: Vec<u64>,
}

impl Drawing {
    fn len(&self) -> usize {
        self.rows.len() + self.drawn.len()
    }
}

impl Core {
    /// Records and submits a step.
    ///
    /// # Errors
    /// What concerns all sequences; a prompt that cannot run ends its own answer alone.
    pub fn step(&mut self) -> Result<Flight> {
        let decoding = self.running.iter().filter(|seat| seat.decodes());
        let ids: Vec<u64> = decoding.map(|seat| seat.id).collect();
        self.most_sequences = self.most_sequences.max(ids.len());
        let mut drawing = Drawing::default();
        let at_once = if self.options.exact { 1 } else { ids.len().max(1) };
        for ids in ids.chunks(at_once) {
            let Self { model, desk, running, .. } = self;
            let mut rows: Vec<_> = running.iter_mut().filter(|seat| ids.contains(&seat.id)).collect();
            decode(model, desk, &mut rows)?;
            drawing.rows.extend(ids);
            self.draw_if_exact(&mut drawing)?;
        }
        self.prompts(&mut drawing)?;
        self.draw(&mut drawing)?;
        let drawn = self.desk.rec.read(&self.drawn, 0, drawing.drawn.len().max(1));
        self.desk.rec.submit();
        self.steps += 1;
        Ok(Flight { drawn, ids: drawing.drawn })
    }

    /// Records pieces of prompts, in the order in which they came, until the step's tokens are spent. A sequence whose prompt
    /// is through joins `drawing`.
    fn prompts(&mut self, drawing: &mut Drawing) -> Result<()> {
        let mut budget = self.options.step_tokens as f64 - drawing.len() as f64;
        let mut spent = false;
        while let Some(place) = self.running.iter().position(Seat::prefills) {
            if spent && budget <= 0.0 {
                break;
            }
            let seat = &mut self.running[place];
            match piece(&mut self.desk, seat, drawing.rows.len()) {
                Ok(tokens) => budget -= tokens,
                Err(error) => {
                    let id = seat.id;
                    self.end(id, Some(error));
                    continue;
                }
            }
            spent = true;
            if seat.course.as_ref().is_some_and(|course| course.at_head()) {
                drawing.rows.push(seat.id);
                self.draw_if_exact(drawing)?;
            }
        }
        Ok(())
    }

    /// Draws at once where the activations have room for one sequence.
    fn draw_if_exact(&mut self, drawing: &mut Drawing) -> Result<()> {
        if self.options.exact { self.draw(drawing) } else { Ok(()) }
    }

    /// Records the logits and the draws of the first hidden rows.
    fn draw(&mut self, drawing: &mut Drawing) -> Result<()> {
        if drawing.rows.is_empty() {
            return Ok(());
        }
        let Self { model, desk, running, drawn, .. } = self;
        let d = desk.decode.as_ref().ok_or_else(not_reserved)?;
        model.logits(&mut desk.rec, d, drawing.rows.len())?;
        let seat_of = |id: &u64| running.iter().position(|seat| seat.id == *id);
        let places: Vec<usize> = drawing.rows.iter().filter_map(seat_of).collect();
        let mut draws = Vec::with_capacity(places.len());
        for (row, &place) in places.iter().enumerate() {
            let Seat { seq, course, request, .. } = &running[place];
            let course = course.as_ref().ok_or_else(not_reserved)?;
            draws.push(seq.draw(course, row, &request.generate.sampling));
        }
        sample(&mut desk.rec, &d.logits, model.config().vocab, &draws)?;
        for (row, draw) in draws.iter().enumerate() {
            desk.rec.copy(draw.tokens, draw.at, drawn, drawing.drawn.len() + row, 1);
        }
        for place in places {
            let Seat { seq, course, .. } = &mut running[place];
            if let Some(course) = course {
                seq.note_draw(course);
            }
        }
        drawing.drawn.append(&mut drawing.rows);
        Ok(())
    }
}

/// Records one token of each of `rows` through all layers.
fn decode(model: &Model, desk: &mut Desk, rows: &mut [&mut Seat]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let d = desk.decode.as_ref().ok_or_else(not_reserved)?;
    let tokens: Vec<_> = rows.iter().map(|seat| (&seat.seq.ids, seat.seq.cached)).collect();
    model.begin_step(&mut desk.rec, d, &tokens)?;
    for seat in &mut *rows {
        let Seat { seq, course, .. } = &mut **seat;
        seq.begin_decode(course.as_mut().ok_or_else(not_reserved)?);
    }
    for layer in 0..model.config().layers {
        let group = layer / model.config().kv_sharing;
        let mut leaving = Vec::new();
        for Seat { seq, .. } in rows.iter_mut().map(|seat| &mut **seat) {
            leaving.extend(seq.due_before(layer).map(|due| (&mut seq.cache, due)));
        }
        model.thin_layer(&mut desk.rec, d, &mut leaving, group)?;
        let mut layer_rows = Vec::with_capacity(rows.len());
        for Seat { seq, course, .. } in rows.iter_mut().map(|seat| &mut **seat) {
            layer_rows.push(seq.decode_row(course.as_ref().ok_or_else(not_reserved)?, layer));
        }
        model.decode_layer(&mut desk.rec, d, &mut layer_rows, layer)?;
        let mut leaving = Vec::new();
        for Seat { seq, course, .. } in rows.iter_mut().map(|seat| &mut **seat) {
            let due = seq.due_after(course.as_ref().ok_or_else(not_reserved)?, layer);
            leaving.extend(due.map(|due| (&mut seq.cache, due)));
        }
        model.thin_layer(&mut desk.rec, d, &mut leaving, group)?;
        for Seat { seq, course, .. } in rows.iter_mut().map(|seat| &mut **seat) {
            seq.end_layer(&mut desk.rec, course.as_mut().ok_or_else(not_reserved)?, layer);
        }
    }
    Ok(())
}

/// Records one layer of a prompt's block, whose last row goes to `row` in the end. Returns how many tokens through all
/// layers that amounts to.
fn piece(desk: &mut Desk, seat: &mut Seat, row: usize) -> Result<f64> {
    let Seat { seq, course, request, .. } = seat;
    if course.is_none() {
        *course = Some(seq.begin(desk, seq.context - seq.tokens.len())?);
    }
    let Some(course) = course else { return Err(not_reserved()) };
    course.row = row;
    // A prompt of one token is its own decode step.
    if seq.next_kind(course) != Kind::Prefill {
        return Ok(0.0);
    }
    let before = block_tokens(&course.work);
    seq.advance(desk, course, &request.generate.sampling)?;
    let tokens = before.max(block_tokens(&course.work));
    Ok(tokens as f64 / seq.model.config().layers as f64)
}

/// Tokens of the block under way.
fn block_tokens(work: &Work) -> usize {
    match work {
        Work::Prefill(_, count) => *count,
        Work::Ready | Work::Decode(_) | Work::Head => 0,
    }
}
